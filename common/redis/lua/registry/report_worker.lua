-- Keep what a live worker says of itself, and its name among those who said something lately.
-- KEYS: report, names, fingerprints. ARGV: name, report, ttl in seconds, then per lane whose
--   results may be kept: lane, its model and fingerprint; or only the name: it leaves.
-- Names are forgotten a minute after their last report, by the server's clock.

if not ARGV[2] then
  redis.call('DEL', KEYS[1])
  return redis.call('ZREM', KEYS[2], ARGV[1])
end
local now = now_ms()
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
redis.call('ZADD', KEYS[2], now, ARGV[1])
if ARGV[4] then redis.call('HSET', KEYS[3], unpack(ARGV, 4)) end
return redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 60000)
