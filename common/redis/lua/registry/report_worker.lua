-- Purpose: Keep what a live worker says of itself, and its name among those heard of lately.
-- KEYS: report, names, fingerprints
-- ARGV:
--   1 worker
--   2 report: nothing from here on where it leaves
--   3 ttl_seconds
--   per lane: (whose results may be kept)
--     1 lane
--     2 fingerprint: its model and that
-- Returns: how many names were forgotten
-- Moves: none
-- Tests: tests/lua/test_report_worker.py
-- Names are forgotten a minute after their last report, by the server's clock.
-- @include clock

local report, names, fingerprints = KEYS[1], KEYS[2], KEYS[3]
if not ARGV[2] then
  redis.call('DEL', report)
  return redis.call('ZREM', names, ARGV[1])
end
local now = now_ms()
redis.call('SET', report, ARGV[2], 'EX', ARGV[3])
redis.call('ZADD', names, now, ARGV[1])
if ARGV[4] then redis.call('HSET', fingerprints, unpack(ARGV, 4)) end
return redis.call('ZREMRANGEBYSCORE', names, '-inf', now - 60000)
