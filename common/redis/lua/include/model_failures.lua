-- Counts failures of the model itself, which open its circuit breaker: for the lane, and for each
-- tenant, so that one tenant's failures close the lane to no other.
-- @include keys

local FAILING_TENANTS, FAILING_SECONDS = 100, 3600

local function count_model_failures(lane, stats, tenant, count)
  redis.call('HINCRBY', stats, 'model_failed', count)
  if not tenant or tenant == '' then return end
  local key = LANE .. lane .. ':failures'
  redis.call('HINCRBY', key, tenant, count)
  -- Who reads takes a smaller number for a count that began anew.
  if redis.call('HLEN', key) > FAILING_TENANTS then
    redis.call('DEL', key)
    redis.call('HINCRBY', key, tenant, count)
  end
  redis.call('EXPIRE', key, FAILING_SECONDS)
end
