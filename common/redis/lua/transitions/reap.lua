-- Purpose: Return expired leases and due delayed jobs to their lane, and correct the counts.
-- KEYS: the lane's
-- ARGV:
--   1 lane
--   2 limit
--   3 result_ttl
--   4 window: how many messages a tenant has in a band's list
-- Returns: {reaped, promoted, ms until the next is due or -1}
-- Moves: r->q, w->settled, w->x, w->q, w->w
-- Tests: tests/lua/test_reap.py
-- Only the server's clock is used. Followers past their deadline expire, and those without a leader
-- are freed; the tenants' jobs are recounted.
-- @include keys, clock, message, lease, record, lane_depth, tenant_window, delayed, flight_orphans
-- @include tenant_recount

local bands, unacked, index, delayed, stats = KEYS, KEYS[5], KEYS[6], KEYS[7], KEYS[10]
local lane, limit, ttl, window = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local now, reaped = now_ms(), 0

local function reap(tag)
  local message, band = end_lease(unacked, index, tag, lane), band_of(tag)
  if not message then
    redis.call('ZREM', index, tag)
    return
  end
  put_back(bands[band], lane, band, message, tenant_of(message))
  local id = id_of(message)
  if id then
    local rec = leased_record(id, lane, tag)
    if rec.tag == tag then requeue_record(id, rec) end
  end
  reaped = reaped + 1
end

-- 1 leases: latest first, each to the front, so the one that expired first is served first
local lapsed = redis.call('ZREVRANGEBYSCORE', index, '(' .. now / 1000, '-inf', 'LIMIT', 0, limit)
for _, tag in ipairs(lapsed) do reap(tag) end
if reaped > 0 then redis.call('HINCRBY', stats, 'reaped', reaped) end

-- 2 delayed
local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, limit)
for i = #due, 1, -1 do make_due(bands, delayed, lane, due[i]) end

-- 3 counts
if redis.call('EXISTS', LANE .. lane .. ':tenants') == 1 then
  for band = 1, 4 do recount(bands[band], lane, band, window) end
  recount_in_flight(lane, backlog_of(lane))
end

-- 4 followers
look_after_followers(lane, limit, ttl, now)
local head = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
return { reaped, #due, head[2] and math.max(0, head[2] - now) or -1 }
