-- The number of jobs that each tenant added to each lane: collected per job, written at the end.
-- @include tenant_counts

local entered = {} -- tenant -> lane -> count

local function note_entry(lane, tenant)
  local lanes = entered[tenant] or {}
  entered[tenant] = lanes
  lanes[lane] = (lanes[lane] or 0) + 1
end

local function write_entries()
  for tenant, lanes in pairs(entered) do
    for lane, count in pairs(lanes) do count_in(lane, tenant, count) end
  end
end
