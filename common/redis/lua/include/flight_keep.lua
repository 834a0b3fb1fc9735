-- Moves the message of a follower that was overtaken from its lane, where a reservation has taken
-- it, to the entry with its leader.
-- @include keys, single_flight

-- False where there is no such leader, which is unexpected.
local function keep_message(id, rec, message)
  local value = redis.call('HGET', FOLLOWERS .. rec.tag, id)
  if not value then return false end
  local band, deadline = read_entry(value)
  redis.call('HSET', FOLLOWERS .. rec.tag, id, band .. ' ' .. deadline .. ' ' .. message)
  return true
end
