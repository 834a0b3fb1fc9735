-- A message that cannot become a job is parked as it is, of a large one its beginning; who sent it
-- is told, where it says so.
-- @include keys, message, record, dead_letter, result_document, settle

local function refuse(call, message, band, tag)
  local id, text = refusal_of(message)
  bury(call.parked, {
    id = 'unreadable-' .. tag, lane = call.lane, band = band, attempts = 0,
    reason = 'unreadable', error = text, worker = call.worker, died_ms = call.now,
  }, message, call.keep)
  -- Under the id of a job that is known, its sender waits for that one.
  if not id or redis.call('EXISTS', JOB .. id, META .. id) > 0 then return end
  local meta = ending(id, blank_record(call.lane), 'failed', 'unreadable', text, call.now)
  settle({ { id = id, meta = meta, lane = call.lane } }, call.ttl)
end

local BEGINNING_BYTES = 4096

local function refuse_large(call, message, id, text, band, tag, largest)
  local why = string.format('its message has %d bytes, and LANEFLEET_MAX_MESSAGE_BYTES is %d: '
    .. 'send large inputs over HTTP, or as input_url', #message, largest)
  bury(call.parked, {
    id = 'unreadable-' .. tag, lane = call.lane, band = band, attempts = 0,
    reason = 'message_too_large', error = why, worker = call.worker, died_ms = call.now,
  }, string.sub(message, 1, BEGINNING_BYTES), call.keep)
  local rec = parse_record(text)
  if not id or (rec and rec.state ~= 'q') then return end
  if not rec and redis.call('EXISTS', META .. id) > 0 then return end
  rec = rec or blank_record(call.lane)
  local meta = ending(id, rec, 'failed', 'message_too_large', why, call.now)
  settle({ { id = id, meta = meta, lane = rec.lane, tenant = rec.tenant } }, call.ttl)
end
