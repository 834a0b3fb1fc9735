-- Finds the index of a job in a list of messages. A band is ordered by creation, except for a few
-- that were returned to its front, so a job is searched by its time of creation: from both ends at
-- once in doubling steps, since Redis walks to an index from the nearer end, and then by bisection.
-- An index deeper than REACH from both ends is interpolated between the times known there: in a
-- lane of a million, each access to its middle would cost Redis a millisecond.
-- @include keys, message, copy_bound

local REACH, SEARCH_BYTES = 4096, 10 * 1024 * 1024 -- read only, so more than is moved

local function created_of(id)
  local text = id and redis.call('GET', JOB .. id)
  return tonumber(text and string.match(text, '^%l %S+ (%d+)') or nil)
end

-- When the message at this index, counted from the one that is served first, was created; nil
-- where four in a row have no known time, being sent by other Celery clients, or enough is copied.
local function moment(list, index, size)
  for at = index, math.min(index + 3, size - 1) do
    if has_copied_most(SEARCH_BYTES) then return nil end
    local message = redis.call('LINDEX', list, -1 - at)
    copied_bytes = copied_bytes + #(message or '')
    local created = message and created_of(id_of(message))
    if created then return created end
  end
end

-- The two indexes between which the jobs created earlier end and the others begin, and the times
-- there, if they are known.
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

-- The index of this job among those created in the same millisecond, which begin at `first`.
local function find(list, size, created, first, id)
  local most = math.min(first + 1024, size)
  while first < most and not has_copied_most(SEARCH_BYTES) do
    local messages = peek_bounded(list, 4, first, SEARCH_BYTES)
    for at, message in ipairs(messages) do
      if id_of(message) == id then return first + at - 1 end
    end
    local last = created_of(id_of(messages[#messages] or ''))
    if last and last > created then return nil end
    first = first + 4
  end
end

-- The job's index in this list, and whether it is exact; nil where it is not in the list.
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
