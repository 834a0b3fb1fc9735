-- Purpose: Find when the oldest of the jobs that are served next came, per lane; writes nothing.
-- KEYS: none by name (lanes differ)
-- ARGV:
--   1 looks: how many messages to look at in each band, from the one that is served first
--   per lane:
--     1 lane
-- Returns: {server time in ms, then per lane: Unix ms or 0 where none is known, the id of a head
--   without a time or ''}; the last lanes are left out where enough was read
-- Moves: none
-- Tests: tests/lua/test_oldest_jobs.py
-- A job of another Celery client has no time of acceptance before it is first reserved; one with an
-- ETA is as old as this is past.
-- @include keys, clock, message, record, iso_time, copy_bound

local looks, out = tonumber(ARGV[1]), { now_ms() }

-- When it came, or nil; and its id.
local function came(message)
  local id = id_of(message)
  local rec = id and read_record(id)
  local created = rec and tonumber(rec.created) or 0
  created = math.max(created, header_ms(message, 'eta') or 0)
  return created > 0 and created or nil, id
end

local function oldest_of(lane)
  local oldest, unknown
  for _, suffix in ipairs(BAND_SUFFIX) do
    for at, message in ipairs(peek_bounded(lane .. suffix, looks, 0)) do
      local created, id = came(message)
      if created then
        oldest = math.min(oldest or created, created)
      elseif at == 1 and not unknown then
        unknown = id
      end
    end
  end
  return oldest or 0, unknown or ''
end

for i = 2, #ARGV do
  if i > 2 and has_copied_most() then break end
  local oldest, unknown = oldest_of(ARGV[i])
  out[#out + 1] = oldest
  out[#out + 1] = unknown
end
return out
