-- Put in front of every script: what more than one transition needs.
-- KEYS of a lane, always in this order:
--   1-4 bands (0, 3, 6, 9)  5 unacked  6 index  7 delayed  8 dead  9 letters  10 stats

local JOB, META, BLOB = 'lf:job:', 'celery-task-meta-', 'lf:blob:'
local TERMINAL = { succeeded = true, failed = true, canceled = true, expired = true }

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
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

local function celery_meta(id, status, exc_type, message, module)
  return '{"status":"' .. status .. '","result":{"exc_type":"' .. exc_type
    .. '","exc_message":[' .. cjson.encode(message) .. '],"exc_module":"' .. module
    .. '"},"traceback":null,"children":[],"date_done":null,"task_id":"' .. id .. '"}'
end

-- Write a terminal state, the result and its notification, and free the input, unless
-- the job is on the dead list, from where it may come back.
local function settle(id, state, reason, message, meta, now, ttl, buried)
  local job = JOB .. id
  redis.call('HSET', job, 'state', state, 'finished_ms', now, 'reason', reason, 'error', message)
  redis.call('HDEL', job, 'tag')
  redis.call('EXPIRE', job, ttl)
  redis.call('SET', META .. id, meta, 'EX', ttl)
  if not buried then redis.call('DEL', BLOB .. id) end
  redis.call('PUBLISH', META .. id, meta)
end

-- Park a message that will not run again: one line of JSON about it, then its bytes.
local function bury(keys, id, lane, band, message, reason, detail, attempts, worker, now, keep)
  local about = cjson.encode({
    id = id, lane = lane, band = band, reason = reason, error = detail,
    attempts = attempts, worker = worker, died_ms = now,
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
