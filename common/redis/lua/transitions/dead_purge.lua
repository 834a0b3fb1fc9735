-- Purpose: Delete dead letters.
-- KEYS: the lane's
-- ARGV:
--   per job: (none for all of them)
--     1 job_id
-- Returns: how many were deleted
-- Moves: none
-- Tests: tests/lua/test_dead_purge.py
-- @include keys

local dead, letters = KEYS[8], KEYS[9]
local ids = ARGV
if #ids == 0 then ids = redis.call('ZRANGE', dead, 0, -1) end
local dropped = 0
for i = 1, #ids do
  redis.call('HDEL', letters, ids[i])
  local listed = redis.call('ZREM', dead, ids[i])
  if listed == 1 then redis.call('DEL', BLOB .. ids[i]) end
  dropped = dropped + listed
end
return dropped
