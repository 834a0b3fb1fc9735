-- A lease's tag, the form in which its message is stored, and its end.
-- @include copy_bound

-- Padded, so that tags sort in the order in which their jobs were reserved.
local function tag_of(prefix, serial, band)
  return string.format('%s%06d:%d', prefix, serial, band)
end

-- A tag ends in the index (1-4) of the band its message came from.
local function band_of(tag)
  return tonumber(string.sub(tag, -1))
end

-- The stored form that restore_visible of a stock kombu consumer can restore.
local function wrap(message, lane)
  return '[' .. message .. ',"","' .. lane .. '"]'
end

-- End a lease; returns its message, or nil where it is no longer held.
local function end_lease(unacked, index, tag, lane)
  local stored = redis.call('HGET', unacked, tag)
  if not stored then return nil end
  copied_bytes = copied_bytes + #stored
  redis.call('HDEL', unacked, tag)
  redis.call('ZREM', index, tag)
  return string.sub(stored, 2, -(#lane + 8))
end
