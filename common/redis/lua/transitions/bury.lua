-- Purpose: Move N leased jobs to the dead list with their reason, and publish the failure.
-- KEYS: the lane's
-- ARGV:
--   1 lane
--   2 result_ttl
--   3 dead_max_count
--   4 worker
--   per job:
--     1 tag
--     2 job_id: or ''
--     3 reason
--     4 error
--     5 attempts
--     6 meta: the result, or '' for one written here
-- Returns: how many were still held
-- Moves: r->settled, w->q, w->w
-- Tests: tests/lua/test_bury.py
-- @include clock, message, lease, record, dead_letter, result_document, settle, model_failures

local unacked, index = KEYS[5], KEYS[6]
local parked = { dead = KEYS[8], letters = KEYS[9], stats = KEYS[10] }
local lane, ttl, keep, worker = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local now, jobs = now_ms(), {}

local function bury_one(tag, id, reason, err, attempts, meta)
  local message = end_lease(unacked, index, tag, lane)
  if not message then return end
  id = id_of(message) or id -- the id under which reserve wrote a record
  bury(parked, {
    id = id, lane = lane, band = band_of(tag), reason = reason, error = err,
    attempts = tonumber(attempts), worker = worker, died_ms = now,
  }, message, keep)
  local rec = leased_record(id, lane, tag)
  if reason == 'attempts_exhausted' and attempts == '1' then
    count_model_failures(lane, parked.stats, rec.tenant, 1)
  end
  if meta == '' then meta = ending(id, rec, 'failed', reason, err, now) end
  jobs[#jobs + 1] = { id = id, meta = meta, lane = rec.lane, tenant = rec.tenant, buried = true }
end

for i = 5, #ARGV, 6 do bury_one(unpack(ARGV, i, i + 5)) end
settle(jobs, ttl)
return #jobs
