-- Purpose: The labels of jobs, from the index of their tenants' jobs; writes nothing.
-- KEYS: none by name
-- ARGV:
--   per job:
--     1 tenant
--     2 job_id
--     3 created_ms
-- Returns: per job 'key=value,key=value', or '' where it has none, or they are no longer known;
--   '-' where no job of its tenant has any
-- Moves: none
-- Tests: tests/lua/test_job_labels.py
-- @include keys, index_entries

-- The field of the entry that has this id, or nil.
local function field_with(entry, id)
  for field = 1, #entry[2], 2 do
    if string.find(entry[2][field + 1] .. ' ', ' ' .. id .. ' ', 1, true) then
      return entry[2][field]
    end
  end
end

-- Only the entries of that millisecond can have it, unless it was dead and is retried.
local function labels_of(tenant, id, created)
  local key = JOBS .. tenant
  if redis.call('EXISTS', key .. ':labels') == 0 then return '-' end
  local retried = redis.call('GET', LABELS .. id)
  if retried then return retried end
  local from = number(skip_to(key, created) - 1)
  while true do
    local entry = redis.call('XREVRANGE', key, from, '-', 'COUNT', 1)[1]
    if not entry or entry_created(entry) < created then return '' end
    local field = field_with(entry, id)
    if field then
      local _, labels = lane_and_labels(field)
      return labels
    end
    from = '(' .. entry[1]
  end
end

local out = {}
for i = 1, #ARGV, 3 do out[#out + 1] = labels_of(ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])) end
return out
