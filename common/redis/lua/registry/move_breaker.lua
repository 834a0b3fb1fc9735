-- Purpose: Change a circuit breaker, or take one of its probes, if its state is still `seen`.
-- KEYS: the lane's breaker
-- ARGV:
--   1 seen: state, or ''
--   2 next: state, or '' to take a probe
--   3 probes: their number; only with an empty next
--   4 tenant: whose breaker, or '' for the lane's own
-- Returns: 1 where that was done, 0 where the state differs or no probe is left
-- Moves: none
-- Tests: tests/lua/test_move_breaker.py

local breaker, suffix = KEYS[1], ARGV[4] == '' and '' or ':' .. ARGV[4]
local state, probes = 'state' .. suffix, 'probes' .. suffix
if (redis.call('HGET', breaker, state) or '') ~= ARGV[1] then return 0 end
if ARGV[2] ~= '' then
  redis.call('HSET', breaker, state, ARGV[2], probes, 0)
  return 1
end
return redis.call('HINCRBY', breaker, probes, 1) <= tonumber(ARGV[3]) and 1 or 0
