-- How tenants' jobs move up from beside the bands into them (tenant_window.lua says how they
-- came there).
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

-- The next of what the tenant has beside the band; empty where nothing is left.
local function take_over(lane, band, tenant, count)
  local key = over_key(lane, band, tenant)
  local messages = count > 0 and redis.call('RPOP', key, count) or {}
  if #messages > 0 then count_over(lane, band, tenant, -#messages) end
  return messages
end

-- Let the tenant's next ones into the band, as far as its window reaches.
local function refill(list, lane, band, tenant, placed, window)
  local messages = take_over(lane, band, tenant, window - placed)
  if #messages == 0 then return end
  in_chunks(messages, function(...) redis.call('LPUSH', list, ...) end)
  count_placed(lane, band, tenant, #messages)
end
