-- The end of a flight: its leader is settled, or was by somebody else.
-- @include keys, record, result_document, single_flight, flight_followers, flight_promote
-- @include flight_share

-- What those find who come next.
local function write_hint(job, flight, successor)
  local hint = flight and redis.call('GET', FLIGHT .. flight)
  if not hint then return end
  local _, _, leader = read_entry(hint)
  if leader ~= job.id then return end -- another leads it by now
  if successor then
    redis.call('SET', FLIGHT .. flight, successor, 'EX', HINT_SECONDS)
  elseif job.outcome == 'succeeded' and (job.reuse_ms or '') ~= '' then
    -- For those who have looked into the cache already, and not yet enqueued.
    redis.call('SET', FLIGHT .. flight, '!' .. job.id, 'PX', job.reuse_ms)
  else
    redis.call('DEL', FLIGHT .. flight)
  end
end

-- job.outcome says that the followers get what it got: 'succeeded', or 'failed' by a fault of the
-- input; they are appended to jobs. Otherwise one of them leads from now on. Whoever finished the
-- job knows its flight; otherwise the followers tell.
local function end_flight(job, jobs)
  local id, flight, successor = job.id, job.flight, nil
  local fields = redis.call('HGETALL', FOLLOWERS .. id)
  if #fields > 0 then
    redis.call('DEL', FOLLOWERS .. id)
    local followers, own = read_followers(id, fields)
    local _, _, name = read_entry(own)
    flight = flight or name
    local rec = read_record(id) or blank_record('-')
    local parts = job.outcome and split_result(job.meta, id)
    if parts then
      share(jobs, followers, rec.started, parts, job.outcome)
    elseif rec.state == 'w' and redis.call('EXISTS', FOLLOWERS .. rec.tag) == 1 then
      move_followers(followers, rec.tag)
      return
    else
      local attempts = job.buried and math.max(rec.attempts - 1, 0) or rec.attempts
      successor = promote(followers, flight, attempts)
    end
  end
  write_hint(job, flight, successor)
end
