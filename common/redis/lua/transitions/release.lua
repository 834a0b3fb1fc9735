-- Hand N leased jobs back to the front of their lane, unstarted, at once.
-- KEYS: the lane's. ARGV: lane, then per job: tag, id, '1' to take the attempt back, '' the delivery
-- Returns how many were still ours.

local lane, released = ARGV[1], 0
for i = #ARGV - 2, 2, -3 do
  local tag, id = ARGV[i], ARGV[i + 1]
  local stored = redis.call('HGET', KEYS[5], tag)
  if stored then
    redis.call('HDEL', KEYS[5], tag)
    redis.call('ZREM', KEYS[6], tag)
    local rec = leased_record(id, lane, tag)
    local band = band_of(tag)
    put_back(KEYS[band], lane, band, unwrap(stored, lane), rec.tenant)
    -- A suspect's attempt is counted when it starts; what it had was a delivery.
    local uncount = ARGV[i + 2] == '1'
    if not uncount then rec.deliveries = math.max(rec.deliveries - 1, 0) end
    requeue_record(id, rec, uncount)
    released = released + 1
  end
end
if released > 0 then redis.call('HINCRBY', KEYS[10], 'released', released) end
return released
