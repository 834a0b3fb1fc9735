-- Purpose: Before a suspect runs alone, check the fence and count the attempt.
-- KEYS: the lane's
-- ARGV:
--   1 lane
--   2 tag
--   3 job_id
--   4 max_attempts
--   5 result_ttl
--   6 dead_max_count
--   7 worker
-- Returns: the attempt's number, 0 where the lease is gone, -1 where no attempts were left
-- Moves: r->r, r->settled, w->q, w->w
-- Tests: tests/lua/test_start.py
-- @include keys, clock, lease, record, dead_letter, result_document, settle

local unacked, index = KEYS[5], KEYS[6]
local parked = { dead = KEYS[8], letters = KEYS[9], stats = KEYS[10] }
local lane, tag, id, max_attempts = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local ttl, keep, worker = ARGV[5], tonumber(ARGV[6]), ARGV[7]

if redis.call('HEXISTS', unacked, tag) == 0 then return 0 end
local rec = leased_record(id, lane, tag)
if rec.attempts < max_attempts then
  rec.attempts = rec.attempts + 1
  redis.call('SET', JOB .. id, record_text(rec))
  return rec.attempts
end

local message, now = end_lease(unacked, index, tag, lane), now_ms()
local last = rec.error ~= '' and rec.error or 'its worker died each time'
local text = 'gave up after ' .. max_attempts .. ' attempts: ' .. last
bury(parked, {
  id = id, lane = lane, band = band_of(tag), reason = 'attempts_exhausted', error = text,
  attempts = max_attempts, worker = worker, died_ms = now,
}, message, keep)
settle({ {
  id = id, meta = ending(id, rec, 'failed', 'attempts_exhausted', text, now),
  lane = rec.lane, tenant = rec.tenant, buried = true,
} }, ttl)
return -1
