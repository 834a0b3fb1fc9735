-- Handles reserved messages whose job is not in its initial state.
-- @include keys, record, dead_letter, result_document, flight_keep, settle

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

-- The job's record where it may run; nil where it is settled, leased, or follows another job.
local function known_to_run(call, id, message, rec)
  if not rec then
    -- No record: sent by another Celery client, or a duplicate of a job that ended long ago.
    return redis.call('EXISTS', META .. id) == 0 and blank_record(call.lane) or nil
  end
  if rec.state == 'x' then
    redis.call('EXPIRE', JOB .. id, call.ttl)
    return nil
  end
  if rec.state == 'w' then
    return not keep_message(id, rec, message) and blank_record(call.lane) or nil
  end
  if rec.state == 'r' then
    if redis.call('HEXISTS', LANE .. rec.lane .. ':unacked', rec.tag) == 1 then return nil end
    rec.attempts = math.max(rec.attempts, 1)
  end
  return rec
end

-- The job's record where it is to be leased; otherwise its message was dropped or moved, or the
-- job was settled here.
local function meet_again(call, id, message, text, band)
  local rec = known_to_run(call, id, message, parse_record(text))
  if not rec then return nil end
  if rec.deadline > 0 and rec.deadline <= call.now then return expire(call, id, rec) end
  if rec.attempts > 0 then
    rec.deliveries = rec.deliveries + 1
    if rec.deliveries > call.max_deliveries then return give_up(call, id, rec, message, band) end
  end
  return rec
end
