-- A live job's record is one string of words, so that one call reads or writes many:
--   state lane created_ms[:tenant]
--   [deadline_ms attempts deliveries tag started_ms worker error ...]
-- state is q (waiting), r (leased), x (settled, though its message still waits) or w (an
-- identical job runs for it: single_flight.lua).
-- A new job has the first three words only; 0 and - mean no value. Its first attempt is implied
-- by r, and is written when the lease ends without a result.
-- @include keys

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

local function read_record(id)
  return parse_record(redis.call('GET', JOB .. id))
end

local function blank_record(lane)
  return {
    state = 'q', lane = lane, created = '0', tenant = '', deadline = 0, attempts = 0,
    deliveries = 0, tag = '-', started = 0, worker = '-', error = '',
  }
end

-- The record of a job that is leased under this tag, or a blank one where it was lost.
local function leased_record(id, lane, tag)
  local rec = read_record(id)
  if not rec then
    rec = blank_record(lane)
    rec.tag = tag
  end
  return rec
end

-- When the job was accepted and its tenant, as one word.
local function origin(created, tenant)
  return tenant == '' and created or created .. ':' .. tenant
end

local function record_text(rec)
  return table.concat({
    rec.state, rec.lane, origin(rec.created, rec.tenant), rec.deadline, rec.attempts,
    rec.deliveries, rec.tag, rec.started, rec.worker, rec.error,
  }, ' ')
end

-- The record of a settled job whose message still waits: reserve must find it.
local function settled_text(rec)
  return 'x ' .. rec.lane .. ' ' .. origin(rec.created, rec.tenant)
end

-- Write that a job waits again. A started attempt counts, unless it is uncounted.
local function requeue_record(id, rec, uncount)
  rec.state, rec.tag, rec.started, rec.worker = 'q', '-', 0, '-'
  if rec.attempts == 0 and not uncount then rec.attempts = 1 end
  redis.call('SET', JOB .. id, record_text(rec))
end
