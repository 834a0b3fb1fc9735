-- The message of a follower that was overtaken has been met in its lane: from now on it is
-- kept with its leader.
-- @include keys, single_flight

-- False where there is no such leader, which should not be.
local function keep_message(id, rec, message)
  local value = redis.call('HGET', FOLLOWERS .. rec.tag, id)
  if not value then return false end
  local band, deadline = read_entry(value)
  redis.call('HSET', FOLLOWERS .. rec.tag, id, band .. ' ' .. deadline .. ' ' .. message)
  return true
end
