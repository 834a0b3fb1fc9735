-- The number of jobs that a tenant has in flight, per lane and in total.
-- @include keys

local function count_in(lane, tenant, count)
  redis.call('HINCRBY', LANE .. lane .. ':tenants', tenant, count)
  redis.call('HINCRBY', IN_FLIGHT, tenant, count)
end

-- Subtract jobs that are no longer in flight.
local function count_out(lane, tenant, count)
  for _, key in ipairs({ LANE .. lane .. ':tenants', IN_FLIGHT }) do
    if redis.call('HINCRBY', key, tenant, -count) <= 0 then redis.call('HDEL', key, tenant) end
  end
end
