-- Purpose: Store a live worker's report, and its name among those that reported recently.
-- KEYS: report, names, fingerprints
-- ARGV:
--   1 worker
--   2 report: omitted with the words after it when the worker stops
--   3 ttl_seconds
--   per lane: (whose results may be cached)
--     1 lane
--     2 fingerprint: its model and that model's weights digest
-- Returns: how many names were removed
-- Moves: none
-- Tests: tests/lua/test_report_worker.py
-- Names are removed a minute after their last report, by the server's clock.
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
