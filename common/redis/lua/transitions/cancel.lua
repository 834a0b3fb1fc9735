-- Cancel one job: a queued one never runs, a running one never publishes. Repeatable.
-- The worker that holds it is told, so that it need not run at all.
-- KEYS: none by name (the record names the lane). ARGV: id, result_ttl,
--   'canceled' or 'expired'
-- Returns the state that the job is in afterwards, or '' where nobody knows it.

local id, ttl, state = ARGV[1], ARGV[2], ARGV[3]
local rec = parse_record(redis.call('GET', JOB .. id))
if not rec or rec.state == 'x' then
  local meta = redis.call('GET', META .. id)
  local status = meta and string.match(meta, '^{"status": ?"(%u+)"')
  if status == 'SUCCESS' then return 'succeeded' end
  if status == 'FAILURE' then return 'failed' end
  if status == 'REVOKED' and string.find(meta, '"exc_message":["expired"]', 1, true) then
    return 'expired'
  end
  return (rec or status == 'REVOKED') and 'canceled' or ''
end
if rec.state == 'r' then
  redis.call('HDEL', 'lf:lane:' .. rec.lane .. ':unacked', rec.tag)
  redis.call('ZREM', 'lf:lane:' .. rec.lane .. ':index', rec.tag)
  redis.call('PUBLISH', 'lf:canceled', rec.lane .. ' ' .. rec.tag)
end
local waits = rec.state == 'q'
if rec.state == 'w' then waits = leave(id, rec) end
local text = state == 'expired' and 'the deadline passed' or 'canceled by request'
local reason = state == 'expired' and 'deadline' or 'canceled'
settle(id, ending(id, rec, state, reason, text, now_ms()), ttl)
if waits then
  -- Its message still waits: the record stays until reserve has met it.
  redis.call('SET', JOB .. id, 'x ' .. rec.lane .. ' ' .. origin(rec.created, rec.tenant))
end
redis.call('HINCRBY', 'lf:lane:' .. rec.lane .. ':stats', state, 1)
return state
