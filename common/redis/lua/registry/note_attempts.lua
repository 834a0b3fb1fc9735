-- Purpose: Write how attempts at deliveries went, where their courier still holds them.
-- KEYS: leases of the lane
-- ARGV:
--   per attempt:
--     1 tag: of the job's lease
--     2 delivery_key
--     3 state
--     4 tries
--     5 log
-- Returns: the numbers (from 0) of those that another courier has by now, or that are kept no more
-- Moves: none
-- Tests: tests/lua/test_note_attempts.py

local unacked, lost = KEYS[1], {}
for i = 1, #ARGV, 5 do
  local tag, key, state, tries, log = unpack(ARGV, i, i + 4)
  if redis.call('HEXISTS', unacked, tag) == 1 and redis.call('HEXISTS', key, 'created') == 1 then
    redis.call('HSET', key, 'state', state, 'tries', tries, 'log', log)
  else
    lost[#lost + 1] = (i - 1) / 5
  end
end
return lost
