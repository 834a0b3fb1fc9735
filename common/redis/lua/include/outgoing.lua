-- Messages to push into the bands: collected job by job, pushed together at the end.
-- A tenant's messages are collected separately, as they may have to wait beside the band.
-- @include keys, chunks, tenant_window

local plain, owned, lower = {}, {}, {}

local function send(lane, band_key, message, tenant)
  local list
  if tenant == '' then
    list = plain[band_key]
    if not list then
      list = {}
      plain[band_key] = list
    end
  else
    local key = band_key .. ' ' .. tenant
    local one = owned[key]
    if not one then
      one = { lane = lane, band_key = band_key, tenant = tenant, messages = {} }
      owned[key] = one
    end
    list = one.messages
  end
  list[#list + 1] = message
end

-- Whether this is a first band beside which lower ones wait: a worker that holds a batch of those
-- reserves one more, so that the first band is in the next batch and not in the one after it.
-- `lower` has, by lane, how many wait there.
local function displaces(band_key, lane)
  return band_key == lane and (lower[lane] or 0) > 0
end

local function push_all(window)
  for band_key, list in pairs(plain) do
    in_chunks(list, function(...) redis.call('LPUSH', band_key, ...) end)
    if displaces(band_key, band_key) then redis.pcall('PUBLISH', STARVED .. SCOPE, band_key) end
  end
  for _, one in pairs(owned) do
    local step = tonumber(string.sub(one.band_key, #one.lane + 3)) or 0
    local new = admit_to_band(
      one.band_key, one.lane, step / 3 + 1, one.tenant, one.messages, window)
    -- Workers that are full of other tenants' jobs would not reserve before their next batch.
    if displaces(one.band_key, one.lane)
      or (new and redis.call('HLEN', LANE .. one.lane .. ':tenants') > 1) then
      redis.pcall('PUBLISH', STARVED .. SCOPE, one.lane)
    end
  end
end
