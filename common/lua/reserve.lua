-- Lease up to N waiting jobs of one lane to one worker.
-- KEYS: the lane's. ARGV: lane, n, lease_ms, tag prefix (fresh for this call), worker,
--   result_ttl, dead_max_count, max_deliveries, share of lower bands, which of them begins (0-2)
-- Returns {left waiting, server time in ms, then per job: tag, attempts, created_ms, message}.
-- Set aside on the way: settled jobs, duplicates of a live lease, jobs past their
-- deadline, and bytes that are no message (parked as they are).

local lane, n, lease_ms, prefix, worker = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local ttl, keep, max_deliveries = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local share, turn = tonumber(ARGV[9]), tonumber(ARGV[10])

-- Numbers that go into many commands are turned into text once: Redis would print each
-- of them as a double again and again.
local now = now_ms()
local stamp = string.format('%d', now)
local due = string.format('%.3f', (now + lease_ms) / 1000) -- seconds, as kombu keeps them
local fresh = '^q ' .. string.gsub(lane, '%W', '%%%0') .. ' (%d+)$'
local leased = 'r ' .. lane .. ' '
local leased_by = ' ' .. stamp .. ' ' .. worker .. ' '
local out, records, unacked, tags, scores = { 0, now }, {}, {}, {}, {}
local serial = 0
local leased_now = {} -- ids; their leases are written at the end, in one go

local function next_tag(band)
  serial = serial + 1
  return tag_of(prefix, serial, band)
end

local function lease(id, message, tag, attempts, created, record)
  leased_now[id] = true
  records[#records + 1] = JOB .. id
  records[#records + 1] = record
  unacked[#unacked + 1] = tag
  unacked[#unacked + 1] = wrap(message, lane)
  tags[#tags + 1] = tag
  local at = #out
  out[at + 1] = tag
  out[at + 2] = attempts
  out[at + 3] = created
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
  lease(id, message, rec.tag, rec.attempts + 1, rec.created, record_text(rec))
end

local function pop(band, count)
  if count <= 0 then return 0 end
  local messages = redis.call('RPOP', KEYS[band], count)
  if not messages then return 0 end
  local ids, keys, texts = {}, {}, {}
  for i, message in ipairs(messages) do
    ids[i] = id_of(message) or false
    keys[i] = JOB .. (ids[i] or '')
  end
  in_chunks(keys, function(...)
    for _, text in ipairs(redis.call('MGET', ...)) do texts[#texts + 1] = text end
  end)
  for i, message in ipairs(messages) do
    local id, text = ids[i], texts[i]
    local created = text and string.match(text, fresh)
    if not id then
      bury(KEYS, 'unreadable-' .. next_tag(band), lane, band, message, 'unreadable',
        'not a Celery message', 0, worker, now, keep)
    elseif leased_now[id] then
      -- Sent twice, and both are here.
    elseif created then
      local tag = next_tag(band)
      lease(id, message, tag, 1, created, leased .. created .. ' 0 0 0 ' .. tag .. leased_by)
    else
      take_other(id, message, text, band)
    end
  end
  return #messages
end

local ready = redis.call('ZRANGEBYSCORE', KEYS[7], '-inf', now, 'LIMIT', 0, n)
for i = #ready, 1, -1 do
  local member = ready[i]
  redis.call('ZREM', KEYS[7], member)
  redis.call('RPUSH', KEYS[tonumber(string.sub(member, 1, 1))], string.sub(member, 3))
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
return out
