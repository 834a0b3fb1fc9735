-- Moves tenants' jobs from the lists beside the bands into the bands (tenant_window.lua puts them
-- there).
-- @include keys, chunks, tenant_window

-- The tenants that have jobs beside this band.
local function waiting_beside(lane, band)
  local tenants = {}
  for _, field in ipairs(redis.call('HKEYS', LANE .. lane .. ':over')) do
    local tenant = string.match(field, '^' .. band .. ':(.+)$')
    if tenant then tenants[#tenants + 1] = tenant end
  end
  return tenants
end

-- The tenant's next messages beside the band; empty where none are left.
local function take_over(lane, band, tenant, count)
  local key = over_key(lane, band, tenant)
  local messages = count > 0 and redis.call('RPOP', key, count) or {}
  if #messages > 0 then count_over(lane, band, tenant, -#messages) end
  return messages
end

-- Move the tenant's next messages into the band, up to its window.
local function refill(list, lane, band, tenant, placed, window)
  local messages = take_over(lane, band, tenant, window - placed)
  if #messages == 0 then return end
  in_chunks(messages, function(...) redis.call('LPUSH', list, ...) end)
  count_placed(lane, band, tenant, #messages)
end
