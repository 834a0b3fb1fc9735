-- Purpose: Move a circuit breaker on, or take one of its probes, if it is still as we saw it.
-- KEYS: the lane's breaker
-- ARGV:
--   1 seen: state, or ''
--   2 next: state, or '' to take a probe
--   3 probes: how many there are; only then
-- Returns: 1 where that was done, 0 where somebody else was first or no probe is left
-- Moves: none
-- Tests: tests/lua/test_move_breaker.py

local breaker = KEYS[1]
if (redis.call('HGET', breaker, 'state') or '') ~= ARGV[1] then return 0 end
if ARGV[2] ~= '' then
  redis.call('HSET', breaker, 'state', ARGV[2], 'probes', 0)
  return 1
end
return redis.call('HINCRBY', breaker, 'probes', 1) <= tonumber(ARGV[3]) and 1 or 0
