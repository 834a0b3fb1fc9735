-- Whose jobs wait beside a band (tenant_window.lua puts them there), and the next of them.
-- @include keys, tenant_window, copy_bound

-- The tenants that have jobs beside this band.
local function waiting_beside(lane, band)
  local tenants = {}
  for _, field in ipairs(redis.call('HKEYS', LANE .. lane .. ':over')) do
    local tenant = string.match(field, '^' .. band .. ':(.+)$')
    if tenant then tenants[#tenants + 1] = tenant end
  end
  return tenants
end

-- The tenant's next messages beside the band; empty where none are left, or enough is copied.
local function take_over(lane, band, tenant, count, most)
  local messages = pop_bounded(over_key(lane, band, tenant), count, most)
  if #messages > 0 then count_over(lane, band, tenant, -#messages) end
  return messages
end
