-- A suspect is about to run, alone: check the fence and count the attempt.
-- KEYS: the lane's. ARGV: lane, tag, id, max_attempts, result_ttl, dead_max_count, worker
-- Returns the attempt's number, 0 where the lease is gone, -1 where attempts were spent.

local lane, tag, id, max_attempts = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local stored = redis.call('HGET', KEYS[5], tag)
if not stored then return 0 end
local rec = leased_record(id, lane, tag)
if rec.attempts < max_attempts then
  rec.attempts = rec.attempts + 1
  redis.call('SET', JOB .. id, record_text(rec))
  return rec.attempts
end

redis.call('HDEL', KEYS[5], tag)
redis.call('ZREM', KEYS[6], tag)
local now = now_ms()
local last = rec.error ~= '' and rec.error or 'its worker died each time'
local text = 'gave up after ' .. max_attempts .. ' attempts: ' .. last
bury(KEYS, id, lane, band_of(tag), unwrap(stored, lane), 'attempts_exhausted', text, max_attempts,
  ARGV[7], now, tonumber(ARGV[6]))
settle(id, ending(id, rec, 'failed', 'attempts_exhausted', text, now), ARGV[5], true)
return -1
