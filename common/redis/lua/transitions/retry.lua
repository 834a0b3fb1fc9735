-- Park N leased jobs until later: a failed attempt's backoff, an ETA not yet reached, or an input
-- that cannot be read now.
-- KEYS: the lane's.
-- ARGV: lane, then per job: tag, id, due_ms (absolute) or delay as '+ms', error or '',
--   '1' to take the attempt back
-- A delay as '~ms' says that the store of inputs failed: neither the model nor the job is charged,
-- not with a delivery either, so that the job can wait for as long as it takes.
-- Returns how many were still ours.

local lane, parked = ARGV[1], 0
local now = now_ms()
for i = 2, #ARGV, 5 do
  local tag, id, due = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local stored = redis.call('HGET', KEYS[5], tag)
  if stored then
    redis.call('HDEL', KEYS[5], tag)
    redis.call('ZREM', KEYS[6], tag)
    local how = string.sub(due, 1, 1)
    if how == '+' or how == '~' then due = now + string.sub(due, 2) end
    redis.call('ZADD', KEYS[7], due, band_of(tag) .. ':' .. unwrap(stored, lane))
    local rec = leased_record(id, lane, tag)
    if ARGV[i + 3] ~= '' then
      -- Only a job's first failure says something of the model; the others are of this job.
      if rec.error == '' then redis.call('HINCRBY', KEYS[10], 'model_failed', 1) end
      rec.error = ARGV[i + 3]
    end
    if how == '~' or ARGV[i + 3] ~= '' then redis.call('HINCRBY', KEYS[10], 'retried', 1) end
    local uncount = ARGV[i + 4] == '1'
    if how == '~' and not uncount then rec.deliveries = math.max(rec.deliveries - 1, 0) end
    requeue_record(id, rec, uncount)
    parked = parked + 1
  end
end
return parked
