-- Purpose: A page of a tenant's jobs, newest first; writes nothing.
-- KEYS: none by name
-- ARGV:
--   1 tenant
--   2 below: the number below which the page begins, or 0
--   3 limit
--   4 looks: how many jobs to examine
--   5 lane: or ''
--   6 state: or 'open' for what is not settled, or ''
--   7 created_after_ms: or 0
--   8 created_before_ms: or 0
--   9 labels: 'key=value,key=value', all of which a job has; or ''
-- Returns: the number below which the next page begins, 0 where there is none, then per job:
--   id, record or '', the fields of its result without the model's output or '', and its labels
-- Moves: none
-- Tests: tests/lua/test_list_jobs.py
-- Jobs without a record and a result are left out. See job_index.lua for the index.
-- @include keys, result_document, index_entries

local tenant, below, limit, looks = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local lane, state, after, before = ARGV[5], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local wanted_labels = ARGV[9]
local key, out, ENTRIES = JOBS .. tenant, { 0 }, 10
local STATES = { q = 'queued', w = 'queued', r = 'running' }

local function is_wanted(found)
  if state == 'open' then return found == 'queued' or found == 'running' end
  return found and (state == '' or state == found)
end

local function take_job(id, labels)
  local found, about = read_about(id)
  local record = ''
  if not about then
    record, about = redis.call('GET', JOB .. id), ''
    found = record and STATES[string.sub(record, 1, 1)]
  end
  if not is_wanted(found) then return end
  limit = limit - 1
  out[#out + 1], out[#out + 2], out[#out + 3], out[#out + 4] = id, record, about, labels
end

-- Take the matching jobs of an entry; returns whether the page continues.
local function take(entry)
  local at, created = number_of(entry), entry_created(entry)
  if after > 0 and created < after then return false end
  for field = #entry[2] - 1, 1, -2 do
    local ids, its_lane, labels = {}, lane_and_labels(entry[2][field])
    local wanted = (lane == '' or lane == its_lane) and has_labels(labels, wanted_labels)
    for id in string.gmatch(entry[2][field + 1], ' (%S+)') do ids[#ids + 1] = id end
    for i = #ids, 1, -1 do
      if below == 0 or at < below then
        looks = looks - (wanted and 1 or 0.05)
        if wanted and (before == 0 or created <= before) then take_job(ids[i], labels) end
        below = at
        if limit == 0 or looks <= 0 then
          out[1] = at > 1 and at or 0
          return false
        end
      end
      at = at - 1
    end
  end
  return true
end

local function take_all(entries)
  for _, entry in ipairs(entries) do
    if not take(entry) then return false end
  end
  return #entries > 0
end

if before > 0 then
  local start = skip_to(key, before)
  if below == 0 or start < below then below = start end
end
local goes_on = true
if below > 0 then -- the previous page may have ended within an entry
  local entry = redis.call('XRANGE', key, number(below), '+', 'COUNT', 1)
  goes_on = #entry == 0 or take_all(entry)
end
while goes_on do
  local from = below > 0 and '(' .. number(below) .. '-0' or '+'
  goes_on = take_all(redis.call('XREVRANGE', key, from, '-', 'COUNT', ENTRIES))
end
return out
