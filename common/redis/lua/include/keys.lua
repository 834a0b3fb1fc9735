-- Put in front of every script: what more than one transition needs.
-- KEYS of a lane, always in this order:
--   1-4 bands (0, 3, 6, 9)  5 unacked  6 index  7 delayed  8 dead  9 letters  10 stats

local JOB, META, BLOB, LANE = 'lf:job:', 'celery-task-meta-', 'lf:blob:', 'lf:lane:'
local IN_FLIGHT, RATE = 'lf:tenants:in_flight', 'lf:rate:'
local land -- flight.lua

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Call with the list's items, so many at a time as the Lua stack holds.
local CHUNK = 1000
local function in_chunks(list, call)
  for first = 1, #list, CHUNK do
    call(unpack(list, first, math.min(first + CHUNK - 1, #list)))
  end
end

-- The job's id as Celery reads it: our own messages begin with it, others are parsed.
-- nil where there is none, or one that could not be written into JSON as it is.
local function id_of(message)
  local id = string.match(message, '^{"headers":{"lang":"py","task":"infer","id":"([^"\\]+)"')
  if id and string.sub(message, -1) == '}' then return id end
  local readable, call = pcall(cjson.decode, message)
  local headers = readable and type(call) == 'table' and call.headers
  id = type(headers) == 'table' and headers.id
  if type(id) == 'string' and string.find(id, '^[^"\\%c]+$') then return id end
end

-- A live job's record is one string of words, so that one call reads or writes many:
--   state lane created_ms[:tenant] [deadline_ms attempts deliveries tag started_ms worker error ...]
-- state is q (waiting), r (leased), x (settled, though its message still waits) or w (an
-- identical job runs for it: flight.lua).
-- A fresh job has the first three words only; 0 and - stand for nothing. Its first attempt
-- is implied by r, and is written down when the lease ends without a result.
local function parse_record(text)
  local state, lane, created, tenant, deadline, attempts, deliveries, tag, started, worker, err =
    string.match(text or '',
      '^(%l) (%S+) (%d+):?(%S*) ?(%d*) ?(%d*) ?(%d*) ?(%S*) ?(%d*) ?(%S*) ?(.*)$')
  if not state then return nil end
  return {
    state = state, lane = lane, created = created, tenant = tenant,
    deadline = tonumber(deadline) or 0,
    attempts = tonumber(attempts) or 0, deliveries = tonumber(deliveries) or 0, tag = tag,
    started = tonumber(started) or 0, worker = worker, error = err,
  }
end

local function blank_record(lane)
  return {
    state = 'q', lane = lane, created = '0', tenant = '', deadline = 0, attempts = 0,
    deliveries = 0, tag = '-', started = 0, worker = '-', error = '',
  }
end

-- The record of a job that is leased under this tag, or would be had it not got lost.
local function leased_record(id, lane, tag)
  local rec = parse_record(redis.call('GET', JOB .. id))
  if not rec then
    rec = blank_record(lane)
    rec.tag = tag
  end
  return rec
end

-- When the job was accepted and whose it is, as one word.
local function origin(created, tenant)
  return tenant == '' and created or created .. ':' .. tenant
end

local function record_text(rec)
  return table.concat({
    rec.state, rec.lane, origin(rec.created, rec.tenant), rec.deadline, rec.attempts, rec.deliveries, rec.tag,
    rec.started, rec.worker, rec.error,
  }, ' ')
end

-- Write that a job waits again. An attempt that began counts, unless it is taken back.
local function requeue_record(id, rec, uncount)
  rec.state, rec.tag, rec.started, rec.worker = 'q', '-', 0, '-'
  if rec.attempts == 0 and not uncount then rec.attempts = 1 end
  redis.call('SET', JOB .. id, record_text(rec))
end

-- The stored form that a stock kombu consumer's restore_visible can put back.
local function wrap(message, lane)
  return '[' .. message .. ',"","' .. lane .. '"]'
end

local function unwrap(stored, lane)
  return string.sub(stored, 2, -(#lane + 8))
end

-- Padded, so that tags sort in the order in which their jobs were reserved.
local function tag_of(prefix, serial, band)
  return string.format('%s%06d:%d', prefix, serial, band)
end

-- A tag ends in the index (1-4) of the band its message came from.
local function band_of(tag)
  return tonumber(string.sub(tag, -1))
end

-- Whose job a message of ours is, nil where it is nobody's.
local function tenant_of(message)
  return string.match(message, '^{"headers":{"lang":"py","task":"infer","id":"[^"]+",'
    .. '"parent_id":null,"group":null,"root_id":"[^"]+","tenant":"([^"]+)"')
end

-- A tenant has at most a window of its jobs in a band's list; the others wait beside it, in a
-- list of their own, so that tenants take turns. Counted are, per band, who has how many in the
-- list (placed), and per lane what waits beside (over): `<band>:<tenant>`, and `<band>:` for all.
local function placed_key(lane, band)
  return LANE .. lane .. ':placed:' .. band
end

local function over_key(lane, band, tenant)
  return LANE .. lane .. ':over:' .. band .. ':' .. tenant
end

local function over_total(lane)
  local total = 0
  for _, count in ipairs(redis.call('HMGET', LANE .. lane .. ':over', '1:', '2:', '3:', '4:')) do
    total = total + (tonumber(count) or 0)
  end
  return total
end

local function count_over(lane, band, tenant, by)
  local key = LANE .. lane .. ':over'
  for _, field in ipairs({ band .. ':' .. tenant, band .. ':' }) do
    if redis.call('HINCRBY', key, field, by) <= 0 then redis.call('HDEL', key, field) end
  end
end

local function count_placed(lane, band, tenant, by)
  local key = placed_key(lane, band)
  local count = redis.call('HINCRBY', key, tenant, by)
  if count <= 0 then redis.call('HDEL', key, tenant) end
  return math.max(count, 0)
end

-- Behind the others: into the band as far as the tenant's window reaches, else beside it.
-- Returns whether the tenant had none waiting here.
local function place(list, lane, band, tenant, messages, window)
  local room, placed = 0, 0
  if redis.call('HEXISTS', LANE .. lane .. ':over', band .. ':' .. tenant) == 0 then
    placed = tonumber(redis.call('HGET', placed_key(lane, band), tenant)) or 0
    if placed > 0 and redis.call('LLEN', list) == 0 then -- somebody else took them
      redis.call('DEL', placed_key(lane, band))
      placed = 0
    end
    room = math.min(math.max(window - placed, 0), #messages)
  end
  local near, far = {}, {}
  for i, message in ipairs(messages) do
    if i <= room then near[#near + 1] = message else far[#far + 1] = message end
  end
  in_chunks(near, function(...) redis.call('LPUSH', list, ...) end)
  in_chunks(far, function(...) redis.call('LPUSH', over_key(lane, band, tenant), ...) end)
  if room > 0 then count_placed(lane, band, tenant, room) end
  if #far > 0 then count_over(lane, band, tenant, #far) end
  return placed == 0 and room > 0
end

-- Jobs of a lane that wait, are leased, or follow one that is.
local function backlog_of(lane)
  local total = redis.call('HLEN', LANE .. lane .. ':unacked') + over_total(lane)
    + redis.call('ZCARD', LANE .. lane .. ':delayed')
    + redis.call('ZCARD', LANE .. lane .. ':followers') + redis.call('LLEN', lane)
  for _, band in ipairs({ '3', '6', '9' }) do
    total = total + redis.call('LLEN', lane .. '\6\22' .. band)
  end
  return total
end

-- To the front of its band, where it was.
local function put_back(list, lane, band, message, tenant)
  redis.call('RPUSH', list, message)
  if tenant and tenant ~= '' then count_placed(lane, band, tenant, 1) end
end

-- The result of a job that a script ends, as Celery stores it, and what is known of the job.
local function ending(id, rec, state, reason, text, now)
  local status, exc_type, module, message = 'FAILURE', 'AttemptsExhausted', 'lanefleet', text
  if state ~= 'failed' then
    status, exc_type, module = 'REVOKED', 'TaskRevokedError', 'celery.exceptions'
    message = state == 'expired' and 'expired' or 'revoked'
  elseif reason == 'unreadable' then
    exc_type = 'UnreadableMessage'
  end
  local about = {
    state = state, lane = rec.lane, finished_ms = now, reason = reason, error = text,
    attempts = math.max(rec.attempts, rec.state == 'r' and 1 or 0),
  }
  if rec.created ~= '0' then about.created_ms = tonumber(rec.created) end
  if rec.tenant ~= '' then about.tenant = rec.tenant end
  if rec.started > 0 then about.started_ms, about.worker = rec.started, rec.worker end
  return '{"status":"' .. status .. '","result":{"exc_type":"' .. exc_type
    .. '","exc_message":[' .. cjson.encode(message) .. '],"exc_module":"' .. module
    .. '"},"traceback":null,"children":[],"date_done":null,"task_id":"' .. id
    .. '","lanefleet":' .. cjson.encode(about) .. '}'
end

-- So many jobs of the tenant are in flight no more.
local function count_out(lane, tenant, count)
  for _, key in ipairs({ LANE .. lane .. ':tenants', IN_FLIGHT }) do
    if redis.call('HINCRBY', key, tenant, -count) <= 0 then redis.call('HDEL', key, tenant) end
  end
end

local function count_in(lane, tenant, count)
  redis.call('HINCRBY', LANE .. lane .. ':tenants', tenant, count)
  redis.call('HINCRBY', IN_FLIGHT, tenant, count)
end

-- Publish how a job ended. Its record goes, and its input unless the job is on the
-- dead list, from where it may come back. outcome: see land in flight.lua.
local function settle(id, meta, ttl, buried, outcome)
  land(id, ttl, meta, outcome, nil, buried)
  local lane, tenant = string.match(redis.call('GET', JOB .. id) or '', '^[qrw] (%S+) %d+:(%S+)')
  if tenant then count_out(lane, tenant, 1) end
  redis.call('DEL', JOB .. id)
  if not buried then redis.call('DEL', BLOB .. id) end
  redis.call('SET', META .. id, meta, 'EX', ttl)
  redis.call('PUBLISH', META .. id, meta)
end

-- Park a message that will not run again: one line of JSON about it, then its bytes.
local function bury(keys, id, lane, band, message, reason, detail, attempts, worker, now, keep)
  local about = cjson.encode({
    id = id, lane = lane, band = band, reason = reason, error = detail,
    attempts = attempts, worker = worker, died_ms = now, tenant = tenant_of(message),
  })
  redis.call('HSET', keys[9], id, about .. '\n' .. message)
  redis.call('ZADD', keys[8], now, id)
  local excess = redis.call('ZCARD', keys[8]) - keep
  if excess > 0 then
    local oldest = redis.call('ZPOPMIN', keys[8], excess)
    for i = 1, #oldest, 2 do
      redis.call('HDEL', keys[9], oldest[i])
      redis.call('DEL', BLOB .. oldest[i])
    end
  end
  redis.call('HINCRBY', keys[10], 'dead', 1)
end
