-- Whose messages a lane has, read whole: of a shallow lane only.
-- @include keys, message, lane_depth, copy_bound

local SHALLOW = 1000 -- messages; reading more would hold the server up

-- Whether all were read.
local function note_ids(found, count, skip, read)
  local messages = read_bounded(count, nil, read)
  for _, message in ipairs(messages) do
    local id = id_of(string.sub(message, skip + 1))
    if id then found[id] = true end
  end
  return #messages >= count
end

local function note_list(found, list)
  return note_ids(found, redis.call('LLEN', list), 0, function(at)
    return redis.call('LINDEX', list, at)
  end)
end

-- The ids of all that wait in lists, beside them and delayed; nil where that is too much to read.
local function ids_waiting(bands, delayed, lane)
  local later = redis.call('ZCARD', delayed)
  local total = over_total(lane) + later
  for band = 1, 4 do total = total + redis.call('LLEN', bands[band]) end
  if total > SHALLOW then return nil end
  local found = {}
  local all = note_ids(found, later, 2, function(at)
    return redis.call('ZRANGE', delayed, at, at)[1]
  end)
  for band = 1, 4 do all = note_list(found, bands[band]) and all end
  for _, field in ipairs(redis.call('HKEYS', LANE .. lane .. ':over')) do
    all = note_list(found, LANE .. lane .. ':over:' .. field) and all
  end
  return all and found or nil
end
