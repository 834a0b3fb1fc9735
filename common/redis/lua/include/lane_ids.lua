-- Whose messages a lane has, read whole: of a shallow lane only.
-- @include keys, message, lane_depth

local SHALLOW = 1000 -- messages; reading more would hold the server up

local function note_ids(found, messages, skip)
  for _, message in ipairs(messages) do
    local id = id_of(string.sub(message, skip + 1))
    if id then found[id] = true end
  end
end

-- The ids of all that wait in lists, beside them and delayed; nil where the lane is deep.
local function ids_waiting(bands, delayed, lane)
  local total = over_total(lane) + redis.call('ZCARD', delayed)
  for band = 1, 4 do total = total + redis.call('LLEN', bands[band]) end
  if total > SHALLOW then return nil end
  local found = {}
  for band = 1, 4 do note_ids(found, redis.call('LRANGE', bands[band], 0, -1), 0) end
  note_ids(found, redis.call('ZRANGE', delayed, 0, -1), 2)
  for _, field in ipairs(redis.call('HKEYS', LANE .. lane .. ':over')) do
    note_ids(found, redis.call('LRANGE', LANE .. lane .. ':over:' .. field, 0, -1), 0)
  end
  return found
end
