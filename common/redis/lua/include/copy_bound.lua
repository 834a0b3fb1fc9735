-- Bounds what one call of a script copies, so that it holds the server up for less than 50 ms.
-- Nothing tells how long an entry is before it is read, so they are read one by one: 0.3 us more
-- for each than all at once.

local MOST_BYTES = 3 * 1024 * 1024 -- and one entry more
local SMALL_BYTES, MOST_AT_A_TIME = 16384, 4
local copied_bytes = 0

local function has_copied_most(most)
  return copied_bytes >= (most or MOST_BYTES)
end

-- read(position) returns an entry, counted from 0; up to `count` are read, and no more once `most`
-- bytes are copied. Returns them, and whether the end was reached.
local function read_bounded(count, most, read)
  local out = {}
  while #out < count do
    if has_copied_most(most) then return out, false end
    local entry = read(#out)
    if not entry then return out, true end
    out[#out + 1] = entry
    copied_bytes = copied_bytes + #entry
  end
  return out, false
end

-- Remove up to `count` messages from the front of a list: several at a time while all are small.
local function pop_bounded(list, count, most)
  local out, step = {}, 1
  while #out < count do
    if has_copied_most(most) then return out, false end
    local wanted = math.min(step, count - #out)
    local entries = redis.call('RPOP', list, wanted) or {}
    step = math.min(2 * step, MOST_AT_A_TIME)
    for _, entry in ipairs(entries) do
      out[#out + 1] = entry
      copied_bytes = copied_bytes + #entry
      if #entry > SMALL_BYTES then step = 1 end
    end
    if #entries < wanted then return out, true end
  end
  return out, false
end

-- The next `count` messages of a list from the index `first`, counted from the one that is served
-- first.
local function peek_bounded(list, count, first, most)
  return read_bounded(count, most, function(at)
    return redis.call('LINDEX', list, -1 - first - at)
  end)
end
