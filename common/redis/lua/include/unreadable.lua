-- A message that cannot become a job is parked as it is; who sent it is told, where it says so.
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
