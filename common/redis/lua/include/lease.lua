-- A lease's tag, the form in which its message is stored, and its end.

-- Padded, so that tags sort in the order in which their jobs were reserved.
local function tag_of(prefix, serial, band)
  return string.format('%s%06d:%d', prefix, serial, band)
end

-- A tag ends in the index (1-4) of the band its message came from.
local function band_of(tag)
  return tonumber(string.sub(tag, -1))
end

-- The stored form that a stock kombu consumer's restore_visible can put back.
local function wrap(message, lane)
  return '[' .. message .. ',"","' .. lane .. '"]'
end

-- Give up a lease: its message, or nil where it is not held any more.
local function end_lease(unacked, index, tag, lane)
  local stored = redis.call('HGET', unacked, tag)
  if not stored then return nil end
  redis.call('HDEL', unacked, tag)
  redis.call('ZREM', index, tag)
  return string.sub(stored, 2, -(#lane + 8))
end
