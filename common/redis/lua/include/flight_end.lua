-- The end of a flight: its leader is being settled, or was settled elsewhere.
-- @include keys, record, result_document, single_flight, flight_followers, flight_promote
-- @include flight_share, copy_bound

-- Update the hint for later jobs with the same input.
local function write_hint(job, flight, successor)
  local hint = flight and redis.call('GET', FLIGHT .. flight)
  if not hint then return end
  local _, _, leader = read_entry(hint)
  if leader ~= job.id then return end -- it has another leader by now
  if successor then
    redis.call('SET', FLIGHT .. flight, successor, 'EX', HINT_SECONDS)
  elseif job.outcome == 'succeeded' and (job.reuse_ms or '') ~= '' then
    -- For jobs that have missed the cache already and are not enqueued yet.
    redis.call('SET', FLIGHT .. flight, '!' .. job.id, 'PX', job.reuse_ms)
  else
    redis.call('DEL', FLIGHT .. flight)
  end
end

-- With a job.outcome the followers get the job's result: 'succeeded', 'failed' by a fault of the
-- input, or 'canceled' with its lane; they are appended to jobs. Otherwise one of them becomes the
-- leader. job.flight is given by the worker that finished the job; otherwise the followers' entry
-- has it.
-- Where enough is copied, the followers are left to the reaper, which frees those without a leader;
-- not those of a job that is unreaped.
local function end_flight(job, jobs)
  local id, flight, successor = job.id, job.flight, nil
  local look = job.unreaped or not has_copied_most()
  local fields = look and redis.call('HGETALL', FOLLOWERS .. id) or {}
  if #fields > 0 then
    redis.call('DEL', FOLLOWERS .. id)
    local followers, own = read_followers(id, fields)
    local _, _, name = read_entry(own)
    flight = flight or name
    local rec = read_record(id) or blank_record('-')
    local parts = job.outcome and split_result(job.meta, id)
    if parts then
      local rest = share(jobs, followers, rec.started, parts, job.outcome)
      successor = promote(rest, flight, 0)
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
