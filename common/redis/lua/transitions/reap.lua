-- Purpose: Return expired leases and due delayed jobs to their lane, and correct the counts.
-- KEYS: the lane's
-- ARGV:
--   1 lane
--   2 limit
--   3 result_ttl
--   4 window: how many messages a tenant has in a band's list
--   5 grace_ms: how much longer those leases are held that may have lapsed through no fault
--   6 patience_ms: after a longer silence of all reapers, that is so
-- Returns: {reaped, promoted, ms until the next is due or -1}
-- Moves: r->q, w->settled, w->x, w->q, w->w
-- Tests: tests/lua/test_reap.py
-- Only the server's clock decides, and only while it was seen to go: calls that waited in a server
-- that stood still run when it goes on, and find that every lease has lapsed before anybody could
-- renew one. So each call leaves its time in `pulse`; what lapsed since, where that is long ago,
-- waits for the renewers a moment more. The same holds after a restart, and after a clock that
-- jumped.
-- Followers that are due expire, and those whose leader is gone are freed; the tenants' jobs are
-- counted again.
-- @include keys, clock, message, lease, record, lane_depth, tenant_window, delayed, flight_orphans
-- @include tenant_recount, chunks, copy_bound

local bands, unacked, index, delayed, stats = KEYS, KEYS[5], KEYS[6], KEYS[7], KEYS[10]
local lane, limit, ttl, window = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local grace_ms, patience_ms = tonumber(ARGV[5]), tonumber(ARGV[6])
local now, reaped = now_ms(), 0
local PULSE, PULSE_TTL = LANE .. lane .. ':pulse', 86400

local function spare_since(pulse)
  local lapsed, scores = redis.call('ZRANGEBYSCORE', index, pulse / 1000, now / 1000), {}
  for _, tag in ipairs(lapsed) do
    scores[#scores + 1] = (now + grace_ms) / 1000
    scores[#scores + 1] = tag
  end
  in_chunks(scores, function(...) redis.call('ZADD', index, ...) end)
  if #lapsed > 0 then redis.call('HINCRBY', stats, 'spared', #lapsed) end
end

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

-- 0 whether time stood still
local pulse = tonumber(redis.call('GET', PULSE) or now)
redis.call('SET', PULSE, string.format('%d', now), 'EX', PULSE_TTL)
if now - pulse > patience_ms then spare_since(pulse) end

-- 1 leases: latest first, each to the front, so whoever lapsed first is served first
local lapsed = redis.call('ZREVRANGEBYSCORE', index, '(' .. now / 1000, '-inf', 'LIMIT', 0, limit)
for _, tag in ipairs(lapsed) do
  if not has_copied_most() then reap(tag) end
end
if reaped > 0 then redis.call('HINCRBY', stats, 'reaped', reaped) end

-- 2 delayed
local due = make_all_due(bands, delayed, lane, now, limit, nil)

-- 3 counts, also those of a list that was deleted with all of its tenants' jobs
local counts = { LANE .. lane .. ':tenants' }
for band = 1, 4 do counts[band + 1] = placed_key(lane, band) end
if redis.call('EXISTS', unpack(counts)) > 0 then
  for band = 1, 4 do recount(bands[band], lane, band, window) end
  recount_in_flight(lane, (backlog_of(lane)))
end

-- 4 followers
look_after_followers(lane, limit, ttl, now)
local head = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
return { reaped, due, head[2] and math.max(0, head[2] - now) or -1 }
