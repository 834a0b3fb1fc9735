-- How many jobs a tenant has in flight, in a lane and in all of them.
-- @include keys

local function count_in(lane, tenant, count)
  redis.call('HINCRBY', LANE .. lane .. ':tenants', tenant, count)
  redis.call('HINCRBY', IN_FLIGHT, tenant, count)
end

-- So many are in flight no more.
local function count_out(lane, tenant, count)
  for _, key in ipairs({ LANE .. lane .. ':tenants', IN_FLIGHT }) do
    if redis.call('HINCRBY', key, tenant, -count) <= 0 then redis.call('HDEL', key, tenant) end
  end
end
