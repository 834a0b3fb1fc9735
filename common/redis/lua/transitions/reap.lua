-- Return lapsed leases to the front of their lane, and due delayed jobs to it; expire
-- followers that are due, and free those whose leader is gone; count its tenants' jobs again.
-- KEYS: the lane's. ARGV: lane, limit, result_ttl, tenant window
-- Only the server's clock decides. Returns {reaped, promoted, ms until the next is due or -1}.

local lane, limit, window = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local now, reaped = now_ms(), 0
local RECOUNT = 1000 -- Longest list that is read through.
-- Latest first, each to the front: whoever lapsed first is served first.
local lapsed = redis.call('ZREVRANGEBYSCORE', KEYS[6], '(' .. now / 1000, '-inf', 'LIMIT', 0, limit)
for _, tag in ipairs(lapsed) do
  local stored = redis.call('HGET', KEYS[5], tag)
  redis.call('ZREM', KEYS[6], tag)
  if stored then
    redis.call('HDEL', KEYS[5], tag)
    local message, band = unwrap(stored, lane), band_of(tag)
    put_back(KEYS[band], lane, band, message, tenant_of(message))
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
  make_due(KEYS, lane, due[i])
end

-- Others than us may have taken from the bands, a stock consumer or `celery purge`; so what
-- was counted is counted again, as far as that is quick, and nobody's jobs are left beside.
local function recount(band)
  local depth, counted, placed = redis.call('LLEN', KEYS[band]), 0, {}
  for _, count in ipairs(redis.call('HVALS', placed_key(lane, band))) do
    counted = counted + count
  end
  local beside = waiting_beside(lane, band)
  if depth > RECOUNT or (depth == counted and (depth > 0 or #beside == 0)) then return end
  for _, message in ipairs(redis.call('LRANGE', KEYS[band], 0, -1)) do
    local tenant = tenant_of(message)
    if tenant then placed[tenant] = (placed[tenant] or 0) + 1 end
  end
  redis.call('DEL', placed_key(lane, band))
  for tenant, count in pairs(placed) do
    redis.call('HSET', placed_key(lane, band), tenant, count)
  end
  for _, tenant in ipairs(beside) do
    refill(KEYS[band], lane, band, tenant, placed[tenant] or 0, window)
  end
end

-- Jobs that somebody else took were never settled by us: the tenants' counts add up to more
-- than the lane holds. Whose they were nobody knows, so all shrink alike; an empty lane has none.
local function recount_in_flight(backlog)
  local counts, sum = redis.call('HGETALL', LANE .. lane .. ':tenants'), 0
  for i = 2, #counts, 2 do sum = sum + counts[i] end
  if sum <= backlog then return end
  for i = 1, #counts, 2 do
    count_out(lane, counts[i], counts[i + 1] - math.floor(counts[i + 1] * backlog / sum))
  end
end

if redis.call('EXISTS', LANE .. lane .. ':tenants') == 1 then
  for band = 1, 4 do recount(band) end
  recount_in_flight(backlog_of(lane))
end
look_after_followers(lane, limit, ARGV[3], now)
local head = redis.call('ZRANGE', KEYS[7], 0, 0, 'WITHSCORES')
return { reaped, #due, head[2] and math.max(0, head[2] - now) or -1 }
