-- Joins a new job to a flight with the same input.
-- @include keys, record, result_document, single_flight, flight_end, copy_bound, blob_keep

-- One script publishes their results, 10 to 25 us each, and reads their messages.
local MAX_FOLLOWERS, MAX_FOLLOWERS_BYTES = 1000, 3 * 1024 * 1024

-- The same input has succeeded since this job's cache lookup: it gets that result, unless the
-- result is older than its max_age_seconds. Ages are in whole seconds, as in the cache.
local function get_arrived(job, other, clock)
  local meta = not has_copied_most() and redis.call('GET', META .. other)
  copied_bytes = copied_bytes + #(meta or '')
  if not meta or string.sub(meta, 1, 19) ~= '{"status":"SUCCESS"' then return false end
  local parts = split_result(meta, other)
  if not parts then return false end
  local oldest = tonumber(job.max_age_seconds)
  if oldest and math.floor((clock - finished_ms(parts)) / 1000) > oldest then return false end
  local left = math.max(redis.call('PTTL', META .. other), 1)
  meta = result_for(parts, job.job_id, string.format('%d', clock), job.tenant)
  redis.call('SET', META .. job.job_id, meta, 'PX', left)
  redis.pcall('PUBLISH', META .. job.job_id, meta)
  return true
end

local function follow(id, rec, leader, entry, own)
  if redis.call('EXISTS', FOLLOWERS .. leader) == 0 then
    redis.call('HSET', FOLLOWERS .. leader, '', own)
  end
  redis.call('HSET', FOLLOWERS .. leader, id, entry)
  redis.call('ZADD', follower_index(rec.lane), rec.deadline > 0 and rec.deadline or 'inf', id)
  redis.call('SET', JOB .. id, follower_text(rec, leader))
end

-- The leader of the flight: its band, its deadline as text, its id and record; nil without one.
local function leader_of(flight, hint)
  local band, deadline, leader = read_entry(hint)
  local rec = leader and read_record(leader)
  if leader and not is_under_way(rec, leader) then
    end_flight({ id = leader, flight = flight }) -- the followers continue without it
    band, deadline, leader = read_entry(redis.call('GET', FLIGHT .. flight))
    rec = leader and read_record(leader)
  end
  return band, deadline, leader, rec
end

local function has_room(leader, message)
  local count = redis.call('HLEN', FOLLOWERS .. leader)
  return count <= MAX_FOLLOWERS and count * #message <= MAX_FOLLOWERS_BYTES
end

-- Returns 'follows' where this job follows an identical one, 'arrived' where it gets the result of
-- one that has just succeeded. Otherwise it becomes the leader and waits in its lane. A job in a
-- higher band than a leader that still waits becomes the leader, and the former one follows it.
local function join(job, record, clock)
  local id, flight, band = job.job_id, job.flight, tonumber(job.band)
  local mine = job.band .. ' ' .. job.deadline_ms .. ' '
  local hint = redis.call('GET', FLIGHT .. flight)
  if hint and string.sub(hint, 1, 1) == '!' then
    if get_arrived(job, string.sub(hint, 2), clock) then return 'arrived' end
    hint = nil
  end
  local leader_band, leader_deadline, leader, rec = leader_of(flight, hint)
  local theirs = rec and leader_band .. ' ' .. leader_deadline .. ' '
  if rec and rec.state == 'q' and rec.attempts == 0 and band < leader_band then
    follow(leader, rec, id, theirs, mine .. flight)
  elseif rec and has_room(leader, job.message) then
    follow(id, parse_record(record), leader, mine .. job.message, theirs .. flight)
    if job.blob ~= '' then keep_blob(job) end
    redis.call('EXPIRE', FLIGHT .. flight, HINT_SECONDS)
    return 'follows'
  end
  redis.call('SET', FLIGHT .. flight, mine .. id, 'EX', HINT_SECONDS)
  return nil
end
