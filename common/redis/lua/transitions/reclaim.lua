-- Purpose: Return the jobs leased by a reservation whose reply was lost.
-- KEYS: the lane's
-- ARGV:
--   1 lane
--   2 tag_prefix: of that call
--   3 wanted: how many it requested
-- Returns: how many leases there were
-- Moves: r->q
-- Tests: tests/lua/test_reclaim.py
-- @include message, lease, record, tenant_window

local bands, unacked, index = KEYS, KEYS[5], KEYS[6]
local lane, prefix, reclaimed = ARGV[1], ARGV[2], 0

local function reclaim(tag, band)
  local message = end_lease(unacked, index, tag, lane)
  if not message then return end
  put_back(bands[band], lane, band, message, tenant_of(message))
  local id = id_of(message)
  if id then
    local rec = leased_record(id, lane, tag)
    -- A suspect keeps the attempts in its record.
    if rec.tag == tag then requeue_record(id, rec, true) end
  end
  reclaimed = reclaimed + 1
end

for serial = tonumber(ARGV[3]), 1, -1 do
  for band = 1, 4 do reclaim(tag_of(prefix, serial, band), band) end
end
return reclaimed
