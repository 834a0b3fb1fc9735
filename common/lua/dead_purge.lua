-- Drop dead letters for good.
-- KEYS: the lane's. ARGV: ids ..., or none for all of them
-- Returns how many were dropped.

if #ARGV == 0 then
  local count = redis.call('ZCARD', KEYS[8])
  redis.call('DEL', KEYS[8], KEYS[9])
  return count
end
local dropped = 0
for i = 1, #ARGV do
  redis.call('HDEL', KEYS[9], ARGV[i])
  dropped = dropped + redis.call('ZREM', KEYS[8], ARGV[i])
end
return dropped
