-- Hand back what a reservation leased whose answer got lost on the way.
-- KEYS: the lane's. ARGV: lane, tag prefix of that call, how many it asked for
-- Returns how many leases there were.

local lane, prefix, reclaimed = ARGV[1], ARGV[2], 0
for serial = tonumber(ARGV[3]), 1, -1 do
  for band = 1, 4 do
    local tag = tag_of(prefix, serial, band)
    local stored = redis.call('HGET', KEYS[5], tag)
    if stored then
      redis.call('HDEL', KEYS[5], tag)
      redis.call('ZREM', KEYS[6], tag)
      local message = unwrap(stored, lane)
      put_back(KEYS[band], lane, band, message, tenant_of(message))
      local id = id_of(message)
      if id then
        local rec = leased_record(id, lane, tag)
        -- A suspect has attempts written down, and keeps them.
        if rec.tag == tag then requeue_record(id, rec, true) end
      end
      reclaimed = reclaimed + 1
    end
  end
end
return reclaimed
