-- A tenant has at most a window of its jobs in a band's list; the others wait beside it, in a
-- list of the tenant's own, so that tenants take turns. Two hashes count them: per band each
-- tenant's jobs in the list (placed), and per lane those beside it (over): `<band>:<tenant>`, and
-- `<band>:` for all.
-- @include keys, chunks

local function placed_key(lane, band)
  return LANE .. lane .. ':placed:' .. band
end

local function over_key(lane, band, tenant)
  return LANE .. lane .. ':over:' .. band .. ':' .. tenant
end

local function count_over(lane, band, tenant, by)
  local key = LANE .. lane .. ':over'
  for _, field in ipairs({ band .. ':' .. tenant, band .. ':' }) do
    if redis.call('HINCRBY', key, field, by) <= 0 then redis.call('HDEL', key, field) end
  end
end

local function count_placed(lane, band, tenant, by)
  local key = placed_key(lane, band)
  local count = redis.call('HINCRBY', key, tenant, by)
  if count <= 0 then redis.call('HDEL', key, tenant) end
  return math.max(count, 0)
end

-- Append messages: to the band up to the tenant's window, the rest beside it. Returns whether the
-- tenant had none waiting here.
local function admit_to_band(list, lane, band, tenant, messages, window)
  local room, placed = 0, 0
  if redis.call('HEXISTS', LANE .. lane .. ':over', band .. ':' .. tenant) == 0 then
    placed = tonumber(redis.call('HGET', placed_key(lane, band), tenant)) or 0
    if placed > 0 and redis.call('LLEN', list) == 0 then -- another consumer took them
      redis.call('DEL', placed_key(lane, band))
      placed = 0
    end
    room = math.min(math.max(window - placed, 0), #messages)
  end
  local near, far = {}, {}
  for i, message in ipairs(messages) do
    if i <= room then near[#near + 1] = message else far[#far + 1] = message end
  end
  in_chunks(near, function(...) redis.call('LPUSH', list, ...) end)
  in_chunks(far, function(...) redis.call('LPUSH', over_key(lane, band, tenant), ...) end)
  if room > 0 then count_placed(lane, band, tenant, room) end
  if #far > 0 then count_over(lane, band, tenant, #far) end
  return placed == 0 and room > 0
end

-- Return a message to the front of its band.
local function put_back(list, lane, band, message, tenant)
  redis.call('RPUSH', list, message)
  if tenant and tenant ~= '' then count_placed(lane, band, tenant, 1) end
end
