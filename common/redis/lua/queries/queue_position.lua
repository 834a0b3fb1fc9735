-- Where waiting jobs stand in their lanes. Writes nothing.
-- KEYS: none by name (the records name the lanes). ARGV: ids ...
-- Returns per job how many will be served before it, about; -1 where it does not wait in a
-- lane, and where that is not known.
--
-- A band is ordered by creation, but for a few that were returned to its front, so a job
-- is looked for by the moment of its creation: from both ends at once in growing steps,
-- since Redis walks to an index from the nearer end, and then by halves. What lies deeper
-- than REACH from either end is estimated between the moments known there: in a lane of a
-- million, each step to its middle would cost Redis a millisecond.

local REACH = 4096
local WINDOWS = 1000

local function created_of(id)
  local text = id and redis.call('GET', JOB .. id)
  return tonumber(text and string.match(text, '^%l %S+ (%d+)') or nil)
end

-- When the message at this index, counted from the one that is served first, was created;
-- nil where some in a row do not tell, being sent by other Celery clients.
local function moment(list, index, size)
  for at = index, math.min(index + 3, size - 1) do
    local message = redis.call('LINDEX', list, -1 - at)
    local created = message and created_of(id_of(message))
    if created then return created end
  end
end

-- Between which two indexes those created earlier end and the others begin, and the
-- moments there, if they are known.
local function bracket(list, size, created)
  local low, high, low_moment, high_moment, step = -1, size, nil, nil, 1
  while step <= REACH and step - 1 < high do
    local at = moment(list, step - 1, size)
    if not at then return nil end
    if at >= created then return low, step - 1, low_moment, at end
    low, low_moment = step - 1, at
    if size - step <= low then break end
    at = moment(list, size - step, size)
    if not at then return nil end
    if at < created then return size - step, high, at, high_moment end
    high, high_moment, step = size - step, at, step * 2
  end
  return low, high, low_moment, high_moment
end

local function halve(list, size, created, low, high)
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    local at = moment(list, middle, size)
    if not at then return nil end
    if at < created then low = middle else high = middle end
  end
  return high
end

-- The index of this job among those created in the same moment, which begin here.
local function find(list, size, created, first, id)
  local count = 4
  while first < size and count <= 1024 do
    local messages = redis.call('LRANGE', list, -first - count, -first - 1)
    for at = #messages, 1, -1 do
      if id_of(messages[at]) == id then return first + #messages - at end
    end
    local last = created_of(id_of(messages[1] or ''))
    if last and last > created then return nil end
    first, count = first + count, count * 4
  end
end

-- Its index in this list, and whether that is exact; nil where it is not there.
local function search(list, size, created, id)
  local low, high, low_moment, high_moment = bracket(list, size, created)
  if not low then return nil end
  if high - low > REACH then
    if not (low_moment and high_moment) then return nil end
    local share = (created - low_moment) / math.max(high_moment - low_moment, 1)
    return math.floor(low + (high - low) * share), false
  end
  local first = halve(list, size, created, low, high)
  local index = first and find(list, size, created, first, id)
  return index, index ~= nil
end

local BANDS = { '', '\6\0223', '\6\0226', '\6\0229' }

-- A tenant's job: the list is short, as each tenant has a window of it, and in the order of
-- turns. From beside it others move up in turns too, so of each no more go first than of ours.
local function place_among_tenants(id, rec)
  local before = 0
  for band, suffix in ipairs(BANDS) do
    local list = rec.lane .. suffix
    local messages = redis.call('LRANGE', list, -WINDOWS, -1)
    for at = #messages, 1, -1 do
      if id_of(messages[at]) == id then return before + #messages - at end
    end
    before = before + redis.call('LLEN', list)
    local own = over_key(rec.lane, band, rec.tenant)
    local size = redis.call('LLEN', own)
    local index = size > 0 and search(own, size, tonumber(rec.created), id)
    local counts, mine = redis.call('HGETALL', LANE .. rec.lane .. ':over'), band .. ':'
    for i = 1, #counts, 2 do
      local count, tenant = tonumber(counts[i + 1]), string.match(counts[i], '^' .. mine .. '(.+)$')
      if tenant and tenant ~= rec.tenant then
        before = before + (index and math.min(count, index) or count)
      end
    end
    if index then return before + index end
    before = before + size
  end
  return -1
end

local function place_of(id)
  local rec = parse_record(redis.call('GET', JOB .. id))
  if rec and rec.state == 'w' then -- it is served when the one that it follows is
    id = rec.tag
    rec = parse_record(redis.call('GET', JOB .. id))
  end
  if not rec or rec.state ~= 'q' then return -1 end
  if rec.tenant ~= '' then return place_among_tenants(id, rec) end
  local before, about = 0, -1
  for _, band in ipairs(BANDS) do
    local list = rec.lane .. band
    local size = redis.call('LLEN', list)
    if size > 0 then
      local index, exact = search(list, size, tonumber(rec.created), id)
      if exact then return before + index end
      if index and about < 0 then about = before + index end
      before = before + size
    end
  end
  return about
end

local out = {}
for i = 1, #ARGV do out[i] = place_of(ARGV[i]) end
return out
