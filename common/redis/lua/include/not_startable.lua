-- A message whose job is not in its first and simplest state.
-- @include keys, record, dead_letter, result_document, flight_keep, settle, same_call
-- @include tenant_counts

-- Settle a job that is past its deadline as expired.
local function expire(call, id, rec)
  local text = 'the deadline passed before the job could start'
  settle({ {
    id = id, meta = ending(id, rec, 'expired', 'deadline', text, call.now),
    lane = rec.lane, tenant = rec.tenant,
  } }, call.ttl)
  redis.call('HINCRBY', call.parked.stats, 'expired', 1)
end

-- Bury a job that has reached the maximum number of deliveries.
local function give_up(call, id, rec, message, band)
  local text = 'delivered ' .. call.max_deliveries .. ' times without being able to start'
  bury(call.parked, {
    id = id, lane = call.lane, band = band, reason = 'attempts_exhausted', error = text,
    attempts = rec.attempts, worker = call.worker, died_ms = call.now,
  }, message, call.keep)
  settle({ {
    id = id, meta = ending(id, rec, 'failed', 'attempts_exhausted', text, call.now),
    lane = rec.lane, tenant = rec.tenant, buried = true,
  } }, call.ttl)
end

-- It has no record: sent by another Celery client, or long done and met a second time. Clients
-- write ABORTED as their wish; of what else is no end, such as STARTED, nobody is known to see to.
local function unknown_to_run(call, id, message)
  local head, rec = redis.call('GETRANGE', META .. id, 0, 63), blank_record(call.lane)
  if string.find(head, '"ABORTED"', 1, true) then
    local meta = ending(id, rec, 'canceled', 'canceled', 'aborted by request', call.now)
    settle({ { id = id, meta = meta, lane = call.lane } }, call.ttl)
    redis.call('HINCRBY', call.parked.stats, 'canceled', 1)
    return nil
  end
  if state_of_result(head) then
    if not result_is_of_other_call(id, message) then return nil end
    redis.call('DEL', META .. id, SAID .. id) -- nobody goes on from what the other said
  end
  return rec
end

-- What is known of the job, as far as it may run; nil where it is settled, leased, or kept aside.
local function known_to_run(call, id, message, rec, band)
  if not rec then return unknown_to_run(call, id, message) end
  if rec.state == 'x' then
    rec = read_record(id) or rec -- a copy may have come with it, which is not counted again
    if rec.tenant ~= '' then count_out(rec.lane, rec.tenant, 1) end
    rec.tenant = ''
    redis.call('SET', JOB .. id, settled_text(rec), 'EX', call.ttl)
    return nil
  end
  if rec.state == 'w' then
    return not keep_message(id, rec, message) and blank_record(call.lane) or nil
  end
  if rec.state == 'r' then
    local stored = redis.call('HGET', LANE .. rec.lane .. ':unacked', rec.tag)
    if stored then
      local other = string.sub(stored, 2, -(#rec.lane + 8))
      if is_other_call(message, other) then let_wait(call.delayed, band, message, call.now) end
      return nil
    end
    rec.attempts = math.max(rec.attempts, 1)
  end
  return rec
end

-- The job's record where it is to be leased; otherwise its message was dropped or moved, or the
-- job was settled here.
local function meet_again(call, id, message, text, band)
  local rec = known_to_run(call, id, message, parse_record(text), band)
  if not rec then return nil end
  if rec.deadline > 0 and rec.deadline <= call.now then return expire(call, id, rec) end
  if rec.attempts > 0 then
    rec.deliveries = rec.deliveries + 1
    if rec.deliveries > call.max_deliveries then return give_up(call, id, rec, message, band) end
  end
  return rec
end
