-- The index behind the list of jobs.
-- Each tenant has one stream. An entry holds the jobs that one call accepted, so that the index
-- costs a call two commands for any number of jobs. Its fields are lanes, or of jobs with labels
-- '<lane> <key>=<value>,...' (sorted), each with '<created_ms> <id> <id> ...'; its id is the number
-- of its last job, counted from the tenant's first. Numbers are used because they bound the index
-- in jobs and not in calls, and because a number used as a cursor always points at the same place.
-- Beside it is a key that says that some of the tenant's jobs have had labels.
-- @include keys

local to_list = {} -- tenant -> lane and labels -> ids
local labeled = {} -- by tenant, whether some have labels

local function list_job(tenant, lane, id, labels)
  if labels ~= '' then lane, labeled[tenant] = lane .. ' ' .. labels, true end
  local lanes = to_list[tenant]
  if not lanes then
    lanes = {}
    to_list[tenant] = lanes
  end
  local ids = lanes[lane]
  if not ids then
    ids = {}
    lanes[lane] = ids
  end
  ids[#ids + 1] = id
end

local function write_list(tenant, lanes, now, keep)
  local key, count, fields = JOBS .. tenant, 0, {}
  for lane, ids in pairs(lanes) do
    count = count + #ids
    fields[#fields + 1] = lane
    fields[#fields + 1] = now .. ' ' .. table.concat(ids, ' ')
  end
  local last = redis.call('INCRBY', key .. ':count', count)
  local added = redis.pcall('XADD', key, last .. '-0', unpack(fields))
  if type(added) == 'table' then -- the count was lost: start a new stream
    redis.call('DEL', key)
    redis.call('XADD', key, last .. '-0', unpack(fields))
  end
  if labeled[tenant] then redis.call('SET', key .. ':labels', 1) end
  if last > keep and last % 100 < count then redis.call('XTRIM', key, 'MINID', '~', last - keep) end
end

local function write_lists(now, keep)
  for tenant, lanes in pairs(to_list) do write_list(tenant, lanes, now, keep) end
end
