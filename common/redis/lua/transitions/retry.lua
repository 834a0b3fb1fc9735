-- Purpose: Delay N leased jobs: a failed attempt, an ETA, an input that cannot be read now.
-- KEYS: the lane's
-- ARGV:
--   1 lane
--   per job:
--     1 tag
--     2 job_id
--     3 due_ms: Unix time, or '' where delay_ms is used
--     4 delay_ms: or ''
--     5 error: of the attempt that failed, or ''
--     6 unread: '1' where the input store failed: counts against neither the model nor the job,
--       nor as a delivery, so that the job can wait for any time
--     7 uncount: '1' to uncount the attempt
-- Returns: how many were still held
-- Moves: r->q
-- Tests: tests/lua/test_retry.py
-- @include clock, lease, record, model_failures

local unacked, index, delayed, stats = KEYS[5], KEYS[6], KEYS[7], KEYS[10]
local lane, now, parked = ARGV[1], now_ms(), 0

local function park(tag, id, due_ms, delay_ms, err, unread, uncount)
  local message = end_lease(unacked, index, tag, lane)
  if not message then return end
  local due = due_ms ~= '' and due_ms or now + delay_ms
  redis.call('ZADD', delayed, due, band_of(tag) .. ':' .. message)
  local rec = leased_record(id, lane, tag)
  if err ~= '' then
    -- Only a job's first failure counts for the model; later ones concern this job.
    if rec.error == '' then count_model_failures(lane, stats, rec.tenant, 1) end
    rec.error = err
  end
  unread, uncount = unread == '1', uncount == '1'
  if unread or err ~= '' then redis.call('HINCRBY', stats, 'retried', 1) end
  if unread and not uncount then rec.deliveries = math.max(rec.deliveries - 1, 0) end
  requeue_record(id, rec, uncount)
  parked = parked + 1
end

for i = 2, #ARGV, 7 do park(unpack(ARGV, i, i + 6)) end
return parked
