-- Purpose: Settle up to N jobs of a lane that nobody serves any more as canceled.
-- KEYS: the lane's
-- ARGV:
--   1 lane
--   2 limit
--   3 result_ttl
-- Returns: {messages taken, jobs settled}; no messages where none are left
-- Moves: q->settled, r->settled, x->settled, none->settled, w->settled, w->x
-- Tests: tests/lua/test_drop_lane.py
-- Leases go as well: whoever calls knows that no worker holds any. Followers end with their leader:
-- one after the other in its place, they would be met again in calls that are not made. Only where
-- they are too many for one call, one of the others leads the rest and is taken in its turn.
-- @include keys, clock, message, lease, record, result_document, tenant_beside, tenant_window
-- @include flight_leave, settle, copy_bound, tenant_counts

local bands, unacked, index, delayed, stats = KEYS, KEYS[5], KEYS[6], KEYS[7], KEYS[10]
local lane, limit, ttl = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now, taken, jobs = now_ms(), {}, {}

local function take(messages, skip)
  for _, message in ipairs(messages) do taken[#taken + 1] = string.sub(message, skip + 1) end
end

local function take_band(band)
  take(pop_bounded(bands[band], math.max(limit - #taken, 0)), 0)
  if redis.call('LLEN', bands[band]) == 0 then redis.call('DEL', placed_key(lane, band)) end
  for _, tenant in ipairs(waiting_beside(lane, band)) do
    take(take_over(lane, band, tenant, limit - #taken), 0)
  end
end

local function take_delayed()
  local found = read_bounded(limit - #taken, nil, function(at)
    return redis.call('ZRANGE', delayed, at, at)[1]
  end)
  for _, member in ipairs(found) do redis.call('ZREM', delayed, member) end
  take(found, 2)
end

local function take_leased()
  if #taken >= limit then return end
  for _, tag in ipairs(redis.call('ZRANGE', index, 0, limit - #taken - 1)) do
    if not has_copied_most() then take({ end_lease(unacked, index, tag, lane) }, 0) end
  end
end

local function drop(message)
  local id = id_of(message) or refusal_of(message)
  local rec = id and read_record(id)
  if not id or (not rec and redis.call('EXISTS', META .. id) == 1) then return end
  if rec and rec.state == 'x' then
    redis.call('DEL', JOB .. id)
    if rec.tenant ~= '' then count_out(rec.lane, rec.tenant, 1) end
    return
  end
  if rec and rec.state == 'w' then leave(id, rec) end
  rec = rec or blank_record(lane)
  local text = 'its lane was dropped: the model is no longer served'
  local meta = ending(id, rec, 'canceled', 'lane_dropped', text, now)
  jobs[#jobs + 1] = {
    id = id, meta = meta, lane = lane, tenant = rec.tenant, outcome = 'canceled', unreaped = true,
  }
end

for band = 1, 4 do take_band(band) end
if #taken < limit then take_delayed() end
take_leased()
for _, message in ipairs(taken) do drop(message) end
local own = #jobs -- of followers, `shared` is counted
settle(jobs, ttl)
if own > 0 then redis.call('HINCRBY', stats, 'canceled', own) end
return { #taken, #jobs }
