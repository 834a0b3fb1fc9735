-- Chooses the messages that a reservation takes from a lane: from each band its share, and in
-- turns from the tenants' lists beside it. `take` is called with messages and returns their number
-- per tenant.
-- @include tenant_window, tenant_beside, tenant_refill, copy_bound

-- For a band whose list is empty, so that no tenant has messages in it: takes an equal share from
-- each tenant beside it, then refills all windows.
local function take_beside(list, lane, band, count, window, take, most)
  local taken = 0
  redis.call('DEL', placed_key(lane, band))
  local tenants = waiting_beside(lane, band)
  while taken < count and #tenants > 0 do
    local share, left = math.ceil((count - taken) / #tenants), {}
    for _, tenant in ipairs(tenants) do
      share = math.min(share, count - taken)
      local messages = take_over(lane, band, tenant, share, most)
      if #messages > 0 then
        left[#left + 1] = tenant
        take(band, messages)
      end
      taken = taken + #messages
    end
    tenants = left
  end
  for _, tenant in ipairs(waiting_beside(lane, band)) do
    refill(list, lane, band, tenant, 0, window)
  end
  return taken
end

local function pop(list, lane, band, beside, count, window, take, most)
  if count <= 0 then return 0 end
  local messages, all = pop_bounded(list, count, most)
  local tenants = take(band, messages)
  if beside > 0 and all then
    return #messages + take_beside(list, lane, band, count - #messages, window, take, most)
  end
  for tenant, taken in pairs(tenants) do
    local placed = count_placed(lane, band, tenant, -taken)
    if beside > 0 then refill(list, lane, band, tenant, placed, window) end
  end
  return #messages
end

-- The first band, then the share of the lower ones in turn, then the rest from the lower ones, as
-- long as `most` bytes are not taken.
local function serve_bands(bands, lane, beside, wanted, share, turn, window, take, most)
  local low = 0
  for band = 2, 4 do low = low + redis.call('LLEN', bands[band]) end
  share = math.min(share, low)
  local function serve(band, count)
    return pop(bands[band], lane, band, beside, count, window, take, most)
  end
  local left = wanted - serve(1, wanted - share)
  for i = 0, 2 do
    local got = serve(2 + (turn + i) % 3, math.min(share, left))
    share, left = share - got, left - got
  end
  for band = 2, 4 do left = left - serve(band, left) end
end
