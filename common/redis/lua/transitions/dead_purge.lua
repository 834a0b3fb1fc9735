-- Drop dead letters for good.
-- KEYS: the lane's. ARGV: ids ..., or none for all of them
-- Returns how many were dropped.

local ids = ARGV
if #ids == 0 then ids = redis.call('ZRANGE', KEYS[8], 0, -1) end
local dropped = 0
for i = 1, #ids do
  redis.call('HDEL', KEYS[9], ids[i])
  local listed = redis.call('ZREM', KEYS[8], ids[i])
  if listed == 1 then redis.call('DEL', BLOB .. ids[i]) end
  dropped = dropped + listed
end
return dropped
