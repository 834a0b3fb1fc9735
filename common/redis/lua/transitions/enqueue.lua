-- Purpose: Accept N jobs: the record, the input by reference and the message, or none of them.
-- KEYS: none by name (lanes differ per job)
-- ARGV:
--   1 max_backlog
--   2 window: how many messages a tenant has in a band's list
--   3 list_max: how many jobs a tenant can list
--   4 words: how many per job: 4, 7, 11 or 12 where the others are empty for all, or 13
--   5 tenants: how many
--   per tenant:
--     1 name
--     2 jobs_per_second: or 0
--     3 burst
--     4 max_in_flight: or 0
--   per job:
--     1 lane
--     2 band_key
--     3 job_id
--     4 message
--     5 expires_ms: or ''
--     6 blob: a large input, or '' or PLACED, where it is kept already and expires
--     7 tenant: or ''
--     8 flight: the single-flight that it may join, or ''
--     9 band: 1-4; with a flight
--     10 deadline_ms: or 0; with a flight
--     11 max_age_seconds: maximum age of a recent result, or ''
--     12 labels: 'key=value,key=value', or ''
--     13 next: who is told of its end, or ''
-- Returns: per job its lane's backlog before it, or -1 (lane full), -2 (rate exceeded) or -3 (too
--   many in flight); then per tenant how many it may send now or -1, and ms until all of its burst
-- Moves: none->q, none->w, none->settled, q->w, w->q, w->w
-- Tests: tests/lua/test_enqueue.py
-- @include keys, clock, chunks, record, lane_depth, job_index, known_jobs, outgoing, job_words
-- @rarely tenant_entries, rate_limit
-- @rarely flight_join, blob_keep, webhook

local max_backlog, window, list_max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local words, jobs_at = tonumber(ARGV[4]), 6 + 4 * ARGV[5]
local clock = now_ms()
local now = string.format('%d', clock)
local tenants = jobs_at > 6 and read_limits(ARGV, 6, jobs_at, clock) or {}
local backlog, known, records, out = {}, {}, {}, {}

-- Write an accepted job, alone or as part of a flight.
local function write(one, key)
  local record = 'q ' .. one.lane .. ' ' .. origin(now, one.tenant)
  if one.expires_ms ~= '' then record = record .. ' ' .. one.expires_ms end
  local how
  if one.flight == '' then
    records[#records + 1] = key
    records[#records + 1] = record
  else
    how = join(one, record, clock)
    if not how then redis.call('SET', key, record) end -- at once: the next job may follow it
  end
  if not how then
    if one.blob ~= '' then keep_blob(one) end
    send(one.lane, one.band_key, one.message, one.tenant)
  end
  if one.next ~= '' then keep_webhook(one, how) end
  if one.tenant ~= '' and how ~= 'arrived' then note_entry(one.lane, one.tenant) end
end

-- The backlog before it, or the code of its refusal.
local function accept(one)
  local lane, key = one.lane, JOB .. one.job_id
  local depth = backlog[lane]
  if not depth then
    depth, lower[lane] = backlog_of(lane)
    backlog[lane] = depth
  end
  if known[key] then return depth end
  if depth >= max_backlog then return -1 end
  local refused = one.tenant ~= '' and refusal(tenants[one.tenant])
  if refused then return refused end
  backlog[lane], known[key] = depth + 1, true
  list_job(one.tenant, lane, one.job_id, one.labels)
  write(one, key)
  return depth
end

-- 1 find the known jobs
local ids = {}
for i = jobs_at, #ARGV, words do ids[#ids + 1] = ARGV[i + 2] end
find_known(ids, known)

-- 2 accept or refuse each
for i = jobs_at, #ARGV, words do out[#out + 1] = accept(read_job(i, words)) end

-- 3 write
in_chunks(records, function(...) redis.call('MSET', ...) end)
write_lists(now, list_max)
if jobs_at > 6 then write_entries() end
push_all(window)
if jobs_at > 6 then write_limits(tenants, ARGV, 6, jobs_at, clock, out) end
return out
