-- Purpose: Publish N results and end their leases; a job whose lease is gone is fenced.
-- KEYS: the lane's
-- ARGV:
--   1 result_ttl
--   2 words: how many per job: 3, 4, 6 or 8 where the others are empty for all, or 9
--   per job:
--     1 tag
--     2 job_id
--     3 meta: the result
--     4 tenant: or ''
--     5 flight: the single-flight that it may lead, or ''
--     6 reuse_ms: how long after a success later identical jobs get its result, or ''
--     7 failure: '' where it succeeded, else its cause: 'input', 'model' or 'other'
--     8 has_blob: '1' where an input is stored beside the message, or ''
--     9 has_next: '1' where it has successors, or ''
-- Returns: the numbers (from 0) of the jobs that were fenced
-- Moves: r->settled, w->settled, w->x, w->q, w->w
-- Tests: tests/lua/test_finish.py
-- @include chunks, settle, model_failures

local lane, unacked, index, stats = KEYS[1], KEYS[5], KEYS[6], KEYS[10]
local ttl, words = ARGV[1], tonumber(ARGV[2])
local fenced, tags, jobs, failed, model_failed = {}, {}, {}, 0, {}
local ids, metas, plain, tenants = {}, {}, words <= 4, {}

local function read_plain(i)
  ids[#ids + 1], metas[#metas + 1] = ARGV[i + 1], ARGV[i + 2]
  local tenant = words == 4 and ARGV[i + 3] or ''
  if tenant ~= '' then tenants[tenant] = (tenants[tenant] or 0) + 1 end
end

local function read_job(i)
  local tenant, flight, reuse_ms, failure, has_blob, has_next = unpack(ARGV, i + 3, i + words - 1)
  local outcome = 'succeeded'
  if failure and failure ~= '' then
    failed = failed + 1
    if failure == 'model' then model_failed[tenant] = (model_failed[tenant] or 0) + 1 end
    outcome = failure == 'input' and 'failed'
  end
  jobs[#jobs + 1] = {
    id = ARGV[i + 1], meta = ARGV[i + 2], lane = lane, tenant = tenant, has_blob = has_blob == '1',
    leads = flight ~= '', flight = flight, outcome = outcome, reuse_ms = reuse_ms,
    next = has_next == '1',
  }
end

local read = plain and read_plain or read_job
for i = 3, #ARGV, words do
  local tag = ARGV[i]
  if redis.call('HDEL', unacked, tag) == 0 then
    fenced[#fenced + 1] = (i - 3) / words
  else
    tags[#tags + 1] = tag
    read(i)
  end
end
in_chunks(tags, function(...) redis.call('ZREM', index, ...) end)
if plain then settle_plain(ids, metas, ttl, { [lane] = tenants }) else settle(jobs, ttl) end

for tenant, count in pairs(model_failed) do count_model_failures(lane, stats, tenant, count) end
local counts = { succeeded = #tags - failed, failed = failed, fenced = #fenced }
for field, count in pairs(counts) do
  if count > 0 then redis.call('HINCRBY', stats, field, count) end
end
return fenced
