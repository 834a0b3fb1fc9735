-- Purpose: Return N leased, unstarted jobs to the front of their lane, at once.
-- KEYS: the lane's
-- ARGV:
--   1 lane
--   per job:
--     1 tag
--     2 job_id
--     3 uncount: '1' to uncount the attempt, '' to uncount the delivery
-- Returns: how many were still held; less than none where it is to be called again for the rest
-- Moves: r->q
-- Tests: tests/lua/test_release.py
-- @include lease, record, tenant_window, copy_bound

local bands, unacked, index, stats = KEYS, KEYS[5], KEYS[6], KEYS[10]
local lane, released, all = ARGV[1], 0, true

for i = #ARGV - 2, 2, -3 do
  all = not has_copied_most()
  local tag, id, uncount = ARGV[i], ARGV[i + 1], ARGV[i + 2] == '1'
  local message = all and end_lease(unacked, index, tag, lane)
  if message then
    local rec, band = leased_record(id, lane, tag), band_of(tag)
    put_back(bands[band], lane, band, message, rec.tenant)
    -- A suspect's attempt is counted when it starts; reserving it counted a delivery.
    if not uncount then rec.deliveries = math.max(rec.deliveries - 1, 0) end
    requeue_record(id, rec, uncount)
    released = released + 1
  end
end
if released > 0 then redis.call('HINCRBY', stats, 'released', released) end
return all and released or -released
