-- Lease up to N waiting jobs of one lane to one worker.
-- KEYS: the lane's. ARGV: lane, n, lease_ms, tag prefix (fresh for this call), worker,
--   result_ttl, dead_max_count, max_deliveries, share of lower bands, which of them begins (0-2)
-- Returns {left waiting, server time in ms, tag, attempts, message, tag, attempts, message, ...}.
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
local out, unacked, scores = { 0, now }, {}, {}
local serial = 0
local leased_now = {} -- ids; their leases are written at the end, in one go

local function lease(id, message, band, attempts, known_lane)
  serial = serial + 1
  local tag = tag_of(prefix, serial, band)
  local job = JOB .. id
  if attempts == 0 then
    redis.call('HSET', job, 'state', 'running', 'tag', tag, 'started_ms', stamp,
      'worker', worker, 'attempts', '1')
    attempts = 1
  else
    -- A suspect: its attempt is counted when it starts, alone (start.lua).
    redis.call('HSET', job, 'state', 'running', 'tag', tag, 'started_ms', stamp,
      'worker', worker)
    attempts = attempts + 1
  end
  if known_lane ~= lane then redis.call('HSET', job, 'lane', lane) end
  leased_now[id] = true
  unacked[#unacked + 1] = tag
  unacked[#unacked + 1] = wrap(message, lane)
  scores[#scores + 1] = due
  scores[#scores + 1] = tag
  out[#out + 1] = tag
  out[#out + 1] = attempts
  out[#out + 1] = message
end

local function take(message, band)
  local id = id_of(message)
  if not id then
    serial = serial + 1
    bury(KEYS, 'unreadable-' .. prefix .. serial, lane, band, message, 'unreadable',
      'not a Celery message', 0, worker, now, keep)
    return
  end
  local job = JOB .. id
  local rec = redis.call('HMGET', job, 'state', 'attempts', 'deadline_ms', 'tag', 'lane')
  if TERMINAL[rec[1]] then
    if redis.call('TTL', job) == -1 then redis.call('EXPIRE', job, ttl) end
    return
  end
  if leased_now[id] then return end
  if rec[4] and rec[5]
      and redis.call('HEXISTS', 'lf:lane:' .. rec[5] .. ':unacked', rec[4]) == 1 then return end
  local attempts = tonumber(rec[2] or 0)
  if rec[3] and tonumber(rec[3]) <= now then
    local text = 'the deadline passed before the job could start'
    settle(id, 'expired', 'deadline', text,
      celery_meta(id, 'REVOKED', 'TaskRevokedError', 'expired', 'celery.exceptions'), now, ttl)
    redis.call('HINCRBY', KEYS[10], 'expired', 1)
    return
  end
  if attempts > 0 and redis.call('HINCRBY', job, 'deliveries', 1) > max_deliveries then
    local text = 'delivered ' .. max_deliveries .. ' times without being able to start'
    bury(KEYS, id, lane, band, message, 'attempts_exhausted', text, attempts, worker, now, keep)
    settle(id, 'failed', 'attempts_exhausted', text,
      celery_meta(id, 'FAILURE', 'AttemptsExhausted', text, 'lanefleet'), now, ttl, true)
    return
  end
  lease(id, message, band, attempts, rec[5])
end

local function pop(band, count)
  if count <= 0 then return 0 end
  local messages = redis.call('RPOP', KEYS[band], count)
  if not messages then return 0 end
  for _, message in ipairs(messages) do take(message, band) end
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

if #scores > 0 then
  for first = 1, #unacked, 1000 do
    local last = math.min(first + 999, #unacked)
    redis.call('HSET', KEYS[5], unpack(unacked, first, last))
    redis.call('ZADD', KEYS[6], unpack(scores, first, last))
  end
end
out[1] = redis.call('LLEN', KEYS[1]) + redis.call('LLEN', KEYS[2])
  + redis.call('LLEN', KEYS[3]) + redis.call('LLEN', KEYS[4])
return out
