-- Purpose: Extend N leases that are still held.
-- KEYS: the lane's
-- ARGV:
--   1 lease_ms
--   per job:
--     1 tag
-- Returns: the tags whose lease is gone
-- Moves: none
-- Tests: tests/lua/test_renew.py
-- @include clock, chunks

local unacked, index = KEYS[5], KEYS[6]
local due = (now_ms() + ARGV[1]) / 1000
local lost, scores = {}, {}

for i = 2, #ARGV do
  if redis.call('HEXISTS', unacked, ARGV[i]) == 1 then
    scores[#scores + 1] = due
    scores[#scores + 1] = ARGV[i]
  else
    lost[#lost + 1] = ARGV[i]
  end
end
in_chunks(scores, function(...) redis.call('ZADD', index, ...) end)
return lost
