-- Lease up to N waiting jobs of one lane to one worker.
-- KEYS: the lane's. ARGV: lane, n, lease_ms, tag prefix (fresh for this call), worker,
--   result_ttl, dead_max_count, max_deliveries, share of lower bands, which of them begins (0-2),
--   tenant window
-- Returns {left waiting, server time in ms, then per job: tag, attempts, created_ms[:tenant],
-- message}.
-- Set aside on the way: settled jobs, duplicates of a live lease, jobs past their
-- deadline, and bytes that are no message (parked as they are).

local lane, n, lease_ms, prefix, worker = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local ttl, keep, max_deliveries = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local share, turn, window = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])

-- Numbers that go into many commands are turned into text once: Redis would print each
-- of them as a double again and again.
local now = now_ms()
local stamp = string.format('%d', now)
local due = string.format('%.3f', (now + lease_ms) / 1000) -- seconds, as kombu keeps them
local fresh = '^q ' .. string.gsub(lane, '%W', '%%%0') .. ' (%d+):?(%S*)$'
local leased = 'r ' .. lane .. ' '
local leased_by = ' ' .. stamp .. ' ' .. worker .. ' '
local out, records, unacked, tags, scores = { 0, now }, {}, {}, {}, {}
local serial = 0
local leased_now = {} -- ids; their leases are written at the end, in one go
local beside = over_total(lane)

local function next_tag(band)
  serial = serial + 1
  return tag_of(prefix, serial, band)
end

local function lease(id, message, tag, attempts, born, record)
  leased_now[id] = true
  records[#records + 1] = JOB .. id
  records[#records + 1] = record
  unacked[#unacked + 1] = tag
  unacked[#unacked + 1] = wrap(message, lane)
  tags[#tags + 1] = tag
  local at = #out
  out[at + 1] = tag
  out[at + 2] = attempts
  out[at + 3] = born
  out[at + 4] = message
end

-- A job that is not in its first and simplest state.
local function take_other(id, message, text, band)
  local rec = parse_record(text)
  if not rec then
    -- No record: sent by another Celery client, or long done and met a second time.
    if redis.call('EXISTS', META .. id) == 1 then return end
    rec = blank_record(lane)
  elseif rec.state == 'x' then
    redis.call('EXPIRE', JOB .. id, ttl)
    return
  elseif rec.state == 'w' then
    if keep_message(id, rec, message) then return end
    rec = blank_record(lane)
  elseif rec.state == 'r' then
    if redis.call('HEXISTS', 'lf:lane:' .. rec.lane .. ':unacked', rec.tag) == 1 then return end
    rec.attempts = math.max(rec.attempts, 1)
  end
  if rec.deadline > 0 and rec.deadline <= now then
    local text = 'the deadline passed before the job could start'
    settle(id, ending(id, rec, 'expired', 'deadline', text, now), ttl)
    redis.call('HINCRBY', KEYS[10], 'expired', 1)
    return
  end
  if rec.attempts > 0 then
    rec.deliveries = rec.deliveries + 1
    if rec.deliveries > max_deliveries then
      local text = 'delivered ' .. max_deliveries .. ' times without being able to start'
      bury(KEYS, id, lane, band, message, 'attempts_exhausted', text, rec.attempts, worker, now,
        keep)
      settle(id, ending(id, rec, 'failed', 'attempts_exhausted', text, now), ttl, true)
      return
    end
  end
  rec.state, rec.lane, rec.tag = 'r', lane, next_tag(band)
  rec.started, rec.worker = stamp, worker
  -- A suspect's attempt is counted when it starts, alone (start.lua).
  lease(id, message, rec.tag, rec.attempts + 1, origin(rec.created, rec.tenant),
    record_text(rec))
end

-- Returns how many of them each tenant had.
local function take(band, messages)
  local ids, keys, texts, tenants = {}, {}, {}, {}
  for i, message in ipairs(messages) do
    ids[i] = id_of(message) or false
    keys[i] = JOB .. (ids[i] or '')
  end
  in_chunks(keys, function(...)
    for _, text in ipairs(redis.call('MGET', ...)) do texts[#texts + 1] = text end
  end)
  for i, message in ipairs(messages) do
    local id, text = ids[i], texts[i]
    local created, tenant
    if text then created, tenant = string.match(text, fresh) end
    if text and not created then tenant = string.match(text, '^%l %S+ %d+:(%S+)') end
    if tenant and tenant ~= '' then tenants[tenant] = (tenants[tenant] or 0) + 1 end
    if not id then
      bury(KEYS, 'unreadable-' .. next_tag(band), lane, band, message, 'unreadable',
        'not a Celery message', 0, worker, now, keep)
    elseif leased_now[id] then
      -- Sent twice, and both are here.
    elseif created then
      local tag = next_tag(band)
      local born = origin(created, tenant)
      lease(id, message, tag, 1, born, leased .. born .. ' 0 0 0 ' .. tag .. leased_by)
    else
      take_other(id, message, text, band)
    end
  end
  return tenants
end

-- The list is used up, so nobody has any in it: everybody beside it gives an equal share.
local function take_beside(band, count)
  local taken = 0
  redis.call('DEL', placed_key(lane, band))
  local tenants = waiting_beside(lane, band)
  while taken < count and #tenants > 0 do
    local share, left = math.ceil((count - taken) / #tenants), {}
    for _, tenant in ipairs(tenants) do
      local messages = take_over(lane, band, tenant, math.min(share, count - taken))
      if #messages > 0 then left[#left + 1] = tenant end
      if #messages > 0 then take(band, messages) end
      taken = taken + #messages
    end
    tenants = left
  end
  for _, tenant in ipairs(waiting_beside(lane, band)) do
    refill(KEYS[band], lane, band, tenant, 0, window)
  end
  return taken
end

local function pop(band, count)
  if count <= 0 then return 0 end
  local messages = redis.call('RPOP', KEYS[band], count) or {}
  local tenants = take(band, messages)
  if beside > 0 and #messages < count then
    return #messages + take_beside(band, count - #messages)
  end
  for tenant, taken in pairs(tenants) do
    local placed = count_placed(lane, band, tenant, -taken)
    if beside > 0 then refill(KEYS[band], lane, band, tenant, placed, window) end
  end
  return #messages
end

local ready = redis.call('ZRANGEBYSCORE', KEYS[7], '-inf', now, 'LIMIT', 0, n)
for i = #ready, 1, -1 do
  make_due(KEYS, lane, ready[i])
end

local low = { redis.call('LLEN', KEYS[2]), redis.call('LLEN', KEYS[3]), redis.call('LLEN', KEYS[4]) }
share = math.min(share, low[1] + low[2] + low[3])
local left = n - pop(1, n - share)
local reserved_for_low = share
for i = 0, 2 do
  local band = 2 + (turn + i) % 3
  local got = pop(band, math.min(reserved_for_low, left))
  reserved_for_low = reserved_for_low - got
  left = left - got
end
for band = 2, 4 do left = left - pop(band, left) end

-- Last tag first: a short zset is a list that is searched from its beginning, and all
-- have one score, so in this order each finds its place at once (15 us a lease otherwise).
for i = #tags, 1, -1 do
  scores[#scores + 1] = due
  scores[#scores + 1] = tags[i]
end
in_chunks(records, function(...) redis.call('MSET', ...) end)
in_chunks(unacked, function(...) redis.call('HSET', KEYS[5], ...) end)
in_chunks(scores, function(...) redis.call('ZADD', KEYS[6], ...) end)
out[1] = redis.call('LLEN', KEYS[1]) + redis.call('LLEN', KEYS[2])
  + redis.call('LLEN', KEYS[3]) + redis.call('LLEN', KEYS[4])
  + (beside > 0 and over_total(lane) or 0)
return out
