-- Purpose: Keep what N leased jobs lead to, for whoever settles them.
-- KEYS: the lane's
-- ARGV:
--   per job:
--     1 tag
--     2 job_id
--     3 next: JSON; only a worker reads it
-- Returns: how many were still held
-- Moves: none
-- Tests: tests/lua/test_lead.py
-- @include keys

local unacked, kept = KEYS[5], 0
for i = 1, #ARGV, 3 do
  if redis.call('HEXISTS', unacked, ARGV[i]) == 1 then
    redis.call('SET', NEXT .. ARGV[i + 1], ARGV[i + 2])
    kept = kept + 1
  end
end
return kept
