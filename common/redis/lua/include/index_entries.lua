-- Reads the entries of the index of jobs, which job_index.lua writes.

local function number(value) return string.format('%d', value) end

local function number_of(entry) return tonumber(string.match(entry[1], '^%d+')) end

local function entry_created(entry) return tonumber(string.match(entry[2][2], '^%d+')) end

-- The lane and the labels of a field.
local function lane_and_labels(field)
  local lane, labels = string.match(field, '^(%S+) (%S+)$')
  return lane or field, labels or ''
end

-- Whether these labels have all those that are wanted.
local function has_labels(labels, wanted)
  labels = ',' .. labels .. ','
  for pair in string.gmatch(wanted, '[^,]+') do
    if not string.find(labels, ',' .. pair .. ',', 1, true) then return false end
  end
  return true
end

-- A number below which are all jobs created before the bound, and few others.
local function skip_to(key, moment)
  local low, high = 0, tonumber(redis.call('GET', key .. ':count') or 0)
  while low < high do
    local middle = math.ceil((low + high) / 2)
    local found = redis.call('XREVRANGE', key, number(middle), '-', 'COUNT', 1)[1]
    if not found or entry_created(found) <= moment then
      low = middle
    else
      high = number_of(found) - 1
    end
  end
  return low + 1
end
