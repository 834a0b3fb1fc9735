-- The only ways in which jobs are settled: each result is published. `settle_plain` is for those on
-- which nothing depends: it makes no table per job, which costs a drain a twentieth. `settle` has
-- a list of jobs; those that are settled by one of them are appended to it and settled likewise,
-- until the end of the list. Each job of the list:
--   id, meta      its result
--   lane, tenant  whose count is reduced; no tenant where the job has none
--   record        the record that stays while its message still waits, or nil; the job is counted
--                 until its message is dropped, or a tenant that cancels could send without end
--   buried        it is on the dead list, from which it may be retried, so its input stays
--   has_blob      false where it is known to have no input beside its message
--   leads         false where it is known to have no followers
--   unreaped      no reaper will come by: its followers end with it or get another leader now
--   next          false where it is known to lead to nothing (outbox.lua)
--   outcome, flight, reuse_ms   see end_flight
-- @include keys, chunks, tenant_counts
-- @rarely flight_end, outbox

local function forget(gone, left, counts)
  in_chunks(gone, function(...) redis.call('DEL', ...) end)
  in_chunks(left, function(...) redis.call('MSET', ...) end)
  for lane, tenants in pairs(counts) do
    for tenant, count in pairs(tenants) do count_out(lane, tenant, count) end
  end
end

local function publish_result(id, meta, ttl)
  local result = META .. id
  redis.call('SET', result, meta, 'EX', ttl)
  redis.pcall('PUBLISH', result, meta) -- who may not tell must settle all the same
end

-- Of jobs without followers, successors and inputs beside their messages; counts: lane -> tenant ->
-- how many of them.
local function settle_plain(ids, metas, ttl, counts)
  local gone = {}
  for i, id in ipairs(ids) do
    publish_result(id, metas[i], ttl)
    gone[i] = JOB .. id
  end
  forget(gone, {}, counts)
end

local function settle(jobs, ttl)
  local gone, left, counts, leading, at = {}, {}, {}, {}, 1
  local job = jobs[1]
  while job do
    local id, tenant = job.id, job.tenant
    publish_result(id, job.meta, ttl)
    if job.leads ~= false then end_flight(job, jobs) end
    if job.next ~= false then leading[#leading + 1] = job end
    if job.record then
      left[#left + 1] = JOB .. id
      left[#left + 1] = job.record
    else
      gone[#gone + 1] = JOB .. id
    end
    if not (job.has_blob == false or job.buried) then gone[#gone + 1] = BLOB .. id end
    if tenant and tenant ~= '' and not job.record then
      local tenants = counts[job.lane] or {}
      counts[job.lane] = tenants
      tenants[tenant] = (tenants[tenant] or 0) + 1
    end
    at = at + 1
    job = jobs[at]
  end
  forget(gone, left, counts)
  if #leading > 0 then hand_on(leading) end
end
