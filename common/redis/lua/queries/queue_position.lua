-- Purpose: Find the positions of waiting jobs in their lanes; writes nothing.
-- KEYS: none by name (the records name the lanes)
-- ARGV:
--   per job:
--     1 job_id
-- Returns: per job about how many will be served before it; -1 where it does not wait in a
--   lane, and where that is unknown
-- Moves: none
-- Tests: tests/lua/test_queue_position.py
-- @include keys, message, record, tenant_window, list_search

local WINDOWS = 1000

-- A tenant's job: the list is short, as each tenant has a window of it, and in the order of
-- turns. Jobs beside it are moved in by turns too, so of each other tenant no more are served
-- first than of this one.
local function position_among_tenants(id, rec)
  local before = 0
  for band, suffix in ipairs(BAND_SUFFIX) do
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

local function position_of(id)
  local rec = read_record(id)
  if rec and rec.state == 'w' then -- it is served together with its leader
    id = rec.tag
    rec = read_record(id)
  end
  if not rec or rec.state ~= 'q' then return -1 end
  if rec.tenant ~= '' then return position_among_tenants(id, rec) end
  local before, about = 0, -1
  for _, band in ipairs(BAND_SUFFIX) do
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
for i = 1, #ARGV do out[i] = position_of(ARGV[i]) end
return out
