-- Return lapsed leases to the front of their lane, and due delayed jobs to it; expire
-- followers that are due, and free those whose leader is gone.
-- KEYS: the lane's. ARGV: lane, limit, result_ttl
-- Only the server's clock decides. Returns {reaped, promoted, ms until the next is due or -1}.

local lane, limit = ARGV[1], tonumber(ARGV[2])
local now, reaped = now_ms(), 0
-- Latest first, each to the front: whoever lapsed first is served first.
local lapsed = redis.call('ZREVRANGEBYSCORE', KEYS[6], '(' .. now / 1000, '-inf', 'LIMIT', 0, limit)
for _, tag in ipairs(lapsed) do
  local stored = redis.call('HGET', KEYS[5], tag)
  redis.call('ZREM', KEYS[6], tag)
  if stored then
    redis.call('HDEL', KEYS[5], tag)
    local message = unwrap(stored, lane)
    redis.call('RPUSH', KEYS[band_of(tag)], message)
    local id = id_of(message)
    if id then
      local rec = leased_record(id, lane, tag)
      if rec.tag == tag then requeue_record(id, rec) end
    end
    reaped = reaped + 1
  end
end
if reaped > 0 then redis.call('HINCRBY', KEYS[10], 'reaped', reaped) end

local due = redis.call('ZRANGEBYSCORE', KEYS[7], '-inf', now, 'LIMIT', 0, limit)
for i = #due, 1, -1 do
  local member = due[i]
  redis.call('ZREM', KEYS[7], member)
  redis.call('RPUSH', KEYS[tonumber(string.sub(member, 1, 1))], string.sub(member, 3))
end
look_after_followers(lane, limit, ARGV[3], now)
local head = redis.call('ZRANGE', KEYS[7], 0, 0, 'WITHSCORES')
return { reaped, #due, head[2] and math.max(0, head[2] - now) or -1 }
