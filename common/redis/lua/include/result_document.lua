-- The result as Celery stores it, with what is known of the job under "lanefleet": the one
-- place in Lua that writes or reads it. common/jobs/result_document.py is its other side.
-- @include keys, iso_date

local SHARED = ',"shared":true'
local TAIL = 2048 -- bytes at a result's end that contain "lanefleet"
local FOREIGN = 65536 -- most bytes of another Celery worker's result that are returned

-- An id as JSON. Those of jobs need no escapes; cjson would write some for a slash.
local function quoted(id)
  return string.find(id, '["\\%c]') and cjson.encode(id) or '"' .. id .. '"'
end

-- The result of a job that a script ends.
local function ending(id, rec, state, reason, text, now)
  local status, exc_type, module, message = 'FAILURE', 'AttemptsExhausted', 'lanefleet', text
  if state ~= 'failed' then
    status, exc_type, module = 'REVOKED', 'TaskRevokedError', 'celery.exceptions'
    message = state == 'expired' and 'expired' or 'revoked'
  elseif reason == 'unreadable' then
    exc_type = 'UnreadableMessage'
  elseif reason == 'message_lost' then
    exc_type = 'MessageLost'
  elseif reason == 'message_too_large' then
    exc_type = 'MessageTooLarge'
  end
  local about = {
    state = state, lane = rec.lane, finished_ms = now, reason = reason, error = text,
    attempts = math.max(rec.attempts, rec.state == 'r' and 1 or 0),
  }
  if rec.started > 0 then about.started_ms, about.worker = rec.started, rec.worker end
  -- What differs between jobs that share a result comes last, as split_result wants it.
  local own = rec.created ~= '0' and ',"created_ms":' .. rec.created or ''
  if rec.tenant ~= '' then own = own .. ',"tenant":"' .. rec.tenant .. '"' end
  local known = string.sub(cjson.encode(about), 1, -2) .. own .. '}'
  return '{"status":"' .. status .. '","result":{"exc_type":"' .. exc_type
    .. '","exc_message":[' .. cjson.encode(message) .. '],"exc_module":"' .. module
    .. '"},"traceback":null,"children":[],"date_done":"' .. iso_date(now)
    .. '","task_id":' .. quoted(id) .. ',"lanefleet":' .. known .. '}'
end

-- A job's result in three parts, between which another job's id and time of acceptance are
-- inserted; nil where it is not of the form written here. A quotation mark inside a JSON string
-- has a backslash before it, so only keys can match; the model's output may have such keys, but
-- the fields written here come last.
local function split_result(meta, id)
  local mark, at, from = '"task_id":"' .. id .. '"', nil, 1
  repeat
    local first, last = string.find(meta, mark, from, true)
    if first then at, from = first, last + 1 end
  until not first
  if not at then return nil end
  local tail = string.sub(meta, at + #mark)
  local first, last = string.find(tail, '"created_ms":%w+')
  if not first or string.sub(tail, -2) ~= '}}' then return nil end
  local rest = string.sub(tail, last + 1, -3)
  rest = string.gsub(rest, ',"tenant":"[^"]+"', '') -- the follower has its own
  if string.sub(rest, -#SHARED) ~= SHARED then rest = rest .. SHARED end
  local head, middle = string.sub(meta, 1, at - 1), string.sub(tail, 1, first - 1)
  return { head = head, middle = middle, rest = rest }
end

local function result_for(parts, id, created, tenant)
  local owner = tenant ~= '' and ',"tenant":"' .. tenant .. '"' or ''
  return parts.head .. '"task_id":"' .. id .. '"' .. parts.middle .. '"created_ms":' .. created
    .. owner .. parts.rest .. '}}'
end

local function finished_ms(parts)
  return tonumber(string.match(parts.middle, '"finished_ms":(%d+)') or 0)
end

-- The final state in a job's result; nil where it has none.
local function state_of_result(meta)
  local status = string.match(meta, '^{"status": ?"(%u+)"')
  if status == 'SUCCESS' then return 'succeeded' end
  if status == 'FAILURE' then return 'failed' end
  if status ~= 'REVOKED' then return nil end
  return string.find(meta, '"exc_message":["expired"]', 1, true) and 'expired' or 'canceled'
end

-- The state and the fields of a result without the model's output; nil where there is none.
-- A result of another Celery worker has few fields, and is returned whole.
local function read_about(id)
  local meta = redis.call('GETRANGE', META .. id, -TAIL, -1)
  if meta == '' then return nil end
  local about = string.match(meta, '.*("lanefleet":{.*)$')
  if about then return string.match(about, '"state":"(%l+)"'), '{"status":"",' .. about end
  meta = redis.call('GETRANGE', META .. id, 0, FOREIGN - 1)
  local status = string.match(meta, '"status": ?"(%u*)"')
  if #meta == FOREIGN then meta = '{"status":"' .. (status or '') .. '"}' end -- too large to return
  return ({ SUCCESS = 'succeeded', FAILURE = 'failed', REVOKED = 'canceled' })[status], meta
end
