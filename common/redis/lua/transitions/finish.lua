-- Purpose: Publish N results and give up their leases; a job whose lease is gone is fenced.
-- KEYS: the lane's
-- ARGV:
--   1 result_ttl
--   2 words: how many of a job's are sent: 3 where the others are empty for all of them, or 8
--   per job:
--     1 tag
--     2 job_id
--     3 meta: the result
--     4 failure: '' where it succeeded, else whose fault: 'input', 'model' or 'other'
--     5 tenant: or ''
--     6 has_blob: '1' where an input lies beside the message, or ''
--     7 flight: which it may lead, or ''
--     8 reuse_ms: for how long those to come get its result after a success, or ''
-- Returns: the numbers (from 0) of the jobs that were fenced
-- Moves: r->settled, w->settled, w->x, w->q, w->w
-- Tests: tests/lua/test_finish.py
-- @include chunks, settle

local lane, unacked, index, stats = KEYS[1], KEYS[5], KEYS[6], KEYS[10]
local ttl, words = ARGV[1], tonumber(ARGV[2])
local fenced, tags, jobs, failed, model_failed = {}, {}, {}, 0, 0

-- Of the few words that most jobs have, no more is made than settle needs.
local function plain(_, id, meta)
  return { id = id, meta = meta, leads = false, has_blob = false }
end

local function with_more(_, id, meta, failure, tenant, has_blob, flight, reuse_ms)
  local outcome = 'succeeded'
  if failure ~= '' then
    failed = failed + 1
    if failure == 'model' then model_failed = model_failed + 1 end
    outcome = failure == 'input' and 'failed'
  end
  return {
    id = id, meta = meta, lane = lane, tenant = tenant, has_blob = has_blob == '1',
    leads = flight ~= '', flight = flight, outcome = outcome, reuse_ms = tonumber(reuse_ms),
  }
end

local read_job = words == 3 and plain or with_more
for i = 3, #ARGV, words do
  local tag = ARGV[i]
  if redis.call('HDEL', unacked, tag) == 0 then
    fenced[#fenced + 1] = (i - 3) / words
  else
    tags[#tags + 1] = tag
    jobs[#jobs + 1] = read_job(unpack(ARGV, i, i + words - 1))
  end
end
in_chunks(tags, function(...) redis.call('ZREM', index, ...) end)
settle(jobs, ttl)

local counts = {
  succeeded = #tags - failed, failed = failed, model_failed = model_failed, fenced = #fenced,
}
for field, count in pairs(counts) do
  if count > 0 then redis.call('HINCRBY', stats, field, count) end
end
return fenced
