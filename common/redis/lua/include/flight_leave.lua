-- Removes one follower from its leader.
-- @include keys, single_flight

-- Remove a follower; returns whether its message still waits in its lane.
local function leave(id, rec)
  local followers = FOLLOWERS .. rec.tag
  local value = redis.call('HGET', followers, id)
  redis.call('HDEL', followers, id)
  if redis.call('HLEN', followers) == 1 then redis.call('DEL', followers) end -- the own entry
  redis.call('ZREM', follower_index(rec.lane), id)
  if not value then return false end
  local _, _, message = read_entry(value)
  return message == ''
end
