-- Move a circuit breaker on, or take one of its probes, if it still is in the state we saw.
-- KEYS: the lane's breaker. ARGV: state seen or '', then either the next state,
--   or '' and how many probes there are
-- Returns 1 where that was done, 0 where somebody else was first or no probe is left.

if (redis.call('HGET', KEYS[1], 'state') or '') ~= ARGV[1] then return 0 end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[1], 'state', ARGV[2], 'probes', 0)
  return 1
end
return redis.call('HINCRBY', KEYS[1], 'probes', 1) <= tonumber(ARGV[3]) and 1 or 0
