-- Purpose: Cancel one job: a queued one never runs, a running one never publishes; repeatable.
-- KEYS: none by name (the record names the lane)
-- ARGV:
--   1 job_id
--   2 result_ttl
--   3 state: 'canceled' or 'expired'
-- Returns: the job's state afterwards, or '' where it is unknown
-- Moves: q->x, r->settled, w->settled, w->x, w->q, w->w
-- Tests: tests/lua/test_cancel.py
-- The worker that holds it is notified, so that it need not run the job.
-- @include keys, clock, record, result_document, flight_leave, settle

local id, ttl, state = ARGV[1], ARGV[2], ARGV[3]
local rec = read_record(id)
if not rec or rec.state == 'x' then
  local meta = redis.call('GET', META .. id)
  return meta and state_of_result(meta) or rec and 'canceled' or ''
end
if rec.state == 'r' then
  redis.call('HDEL', LANE .. rec.lane .. ':unacked', rec.tag)
  redis.call('ZREM', LANE .. rec.lane .. ':index', rec.tag)
  -- A hint, which not every user may give: what it is about must be written all the same.
  redis.pcall('PUBLISH', CANCELED .. SCOPE, rec.lane .. ' ' .. rec.tag)
end
local waits = rec.state == 'q'
if rec.state == 'w' then waits = leave(id, rec) end
local text = state == 'expired' and 'the deadline passed' or 'canceled by request'
local reason = state == 'expired' and 'deadline' or 'canceled'
settle({ {
  id = id, meta = ending(id, rec, state, reason, text, now_ms()),
  lane = rec.lane, tenant = rec.tenant,
  record = waits and settled_text(rec) or nil, -- until reserve has dropped its message
} }, ttl)
redis.call('HINCRBY', LANE .. rec.lane .. ':stats', state, 1)
return state
