-- Cancel one job: a queued one never runs, a running one never publishes. Repeatable.
-- The worker that holds it is told, so that it need not run at all.
-- KEYS: none by name (the record names the lane). ARGV: id, result_ttl,
--   'canceled' or 'expired'
-- Returns the state that the job is in afterwards, or '' where nobody knows it.

local id, ttl, state = ARGV[1], ARGV[2], ARGV[3]
local rec = redis.call('HMGET', JOB .. id, 'state', 'lane', 'tag')
if not rec[1] or not rec[2] then return '' end
if TERMINAL[rec[1]] then return rec[1] end
if rec[3] then
  redis.call('HDEL', 'lf:lane:' .. rec[2] .. ':unacked', rec[3])
  redis.call('ZREM', 'lf:lane:' .. rec[2] .. ':index', rec[3])
  redis.call('PUBLISH', 'lf:canceled', rec[2] .. ' ' .. rec[3])
end
local text = state == 'expired' and 'the deadline passed' or 'canceled by request'
settle(id, state, state == 'expired' and 'deadline' or 'canceled', text,
  celery_meta(id, 'REVOKED', 'TaskRevokedError', state == 'expired' and 'expired' or 'revoked',
    'celery.exceptions'), now_ms(), ttl)
if not rec[3] then
  -- Its message still waits: the record stays until reserve has met it (see `take`).
  redis.call('PERSIST', JOB .. id)
end
redis.call('HINCRBY', 'lf:lane:' .. rec[2] .. ':stats', state, 1)
return state
