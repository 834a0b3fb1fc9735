-- Purpose: Find the positions of waiting jobs in their lanes; writes nothing.
-- KEYS: none by name (the records name the lanes)
-- ARGV:
--   per job:
--     1 job_id
-- Returns: per job about how many will be served before it; -1 where it does not wait in a
--   lane, and where that is unknown
-- Moves: none
-- Tests: tests/lua/test_queue_position.py
-- @include keys, message, record, tenant_window, list_search, copy_bound

local WINDOWS, LOOK_BYTES = 1000, 2 * 1024 * 1024
local seen = {} -- per list: how many messages were looked at, and the index of each id

local function look_at(list)
  if seen[list] then return seen[list] end
  local messages, found = peek_bounded(list, WINDOWS, 0, LOOK_BYTES), {}
  for at = #messages, 1, -1 do
    local id = id_of(messages[at])
    if id then found[id] = at - 1 end
  end
  seen[list] = { count = #messages, index = found }
  return seen[list]
end

-- A tenant's job: the list is short, as each tenant has a window of it, and in the order of
-- turns. Jobs beside it are moved in by turns too, so of each other tenant no more are served
-- first than of this one. Where messages are too large to look at all of them, it is about in the
-- middle of the others.
local function position_among_tenants(id, rec)
  local before, about = 0, -1
  for band, suffix in ipairs(BAND_SUFFIX) do
    local list = rec.lane .. suffix
    local near, depth = look_at(list), redis.call('LLEN', list)
    if near.index[id] then return before + near.index[id] end
    local unseen = depth - near.count
    if about < 0 and unseen > 0 then about = before + near.count + math.floor(unseen / 2) end
    before = before + depth
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
  return about
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
