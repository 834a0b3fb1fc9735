-- Purpose: Settle waiting jobs of one list that are past their deadline, where no worker does.
-- KEYS: the lane's
-- ARGV:
--   1 lane
--   2 result_ttl
--   3 band: its number, 1-4
--   4 tenant: whose messages beside the band, or '' for the band's own list
--   5 first: the index to begin at, counted from the one that is served first
--   6 limit: how many messages to look at
-- Returns: {index to go on at or -1 at the end, how many were settled, how many delayed}
-- Moves: q->settled, q->x, x->settled, w->q, w->w
-- Tests: tests/lua/test_expire.py
-- Near an end of its list the message goes too, as does that of a job that was settled before;
-- elsewhere Redis would search it for too long, so it is left to the reservation that meets it.
-- Only a record's deadline counts: what another Celery client sent may lead to something that only
-- a worker reads, so its `expires` is left to one. Its ETA is not: it is delayed until then.
-- @include keys, clock, message, record, result_document, iso_time, tenant_window, tenant_counts
-- @include settle, copy_bound

local bands, delayed, stats = KEYS, KEYS[7], KEYS[10]
local lane, ttl, band, tenant = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local at, limit = tonumber(ARGV[5]), tonumber(ARGV[6])
local REACH = 2000 -- messages from either end

local now, jobs, ended, put_off = now_ms(), {}, {}, 0
local list = tenant == '' and bands[band] or over_key(lane, band, tenant)
local size = redis.call('LLEN', list)

-- Whether the message, which is at this index, was removed.
local function remove(message)
  local count = at < REACH and -1 or size - at <= REACH and 1
  if not count or redis.call('LREM', list, count, message) == 0 then return false end
  size = size - 1
  local owner = tenant_of(message)
  if tenant ~= '' then
    count_over(lane, band, tenant, -1)
  elseif owner then
    count_placed(lane, band, owner, -1)
  end
  return true
end

local function expire(id, rec, gone)
  local text = 'the deadline passed before the job could start'
  ended[id] = true
  jobs[#jobs + 1] = {
    id = id, meta = ending(id, rec, 'expired', 'deadline', text, now), lane = lane,
    tenant = rec.tenant, record = not gone and settled_text(rec) or nil,
  }
end

-- Whether its message was removed.
local function look_at(message)
  local id = id_of(message)
  if not id or ended[id] then return false end
  local rec = read_record(id)
  if rec and rec.state == 'x' then
    if not remove(message) then return false end
    redis.call('DEL', JOB .. id)
    if rec.tenant ~= '' then count_out(rec.lane, rec.tenant, 1) end
    return true
  end
  if rec and (rec.state ~= 'q' or rec.lane ~= lane) then return false end
  if redis.call('EXISTS', META .. id) == 1 then return false end -- left to who knows more of it
  if rec and rec.deadline > 0 and rec.deadline <= now then
    local gone = remove(message)
    expire(id, rec, gone)
    return gone
  end
  local eta = header_ms(message, 'eta')
  if not eta or eta <= now or not remove(message) then return false end
  redis.call('ZADD', delayed, string.format('%d', eta), band .. ':' .. message)
  put_off = put_off + 1
  return true
end

for _ = 1, limit do
  local message = not has_copied_most() and redis.call('LINDEX', list, -1 - at)
  if not message then break end
  copied_bytes = copied_bytes + #message
  if not look_at(message) then at = at + 1 end
end
local own = #jobs -- of followers, others are told
settle(jobs, ttl)
if own > 0 then redis.call('HINCRBY', stats, 'expired', own) end
return { at < redis.call('LLEN', list) and at or -1, own, put_off }
