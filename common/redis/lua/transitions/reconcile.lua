-- Purpose: Settle jobs whose message is gone from their lane, as after `celery purge`.
-- KEYS: the lane's
-- ARGV:
--   1 lane
--   2 result_ttl
--   3 settle: '1' to end them, '' to only look
--   per job:
--     1 job_id
-- Returns: the ids of jobs that are said to wait and do not; none where the lane is deep
-- Moves: q->settled, x->settled, w->q, w->w
-- Tests: tests/lua/test_reconcile.py
-- What is left of a job that ended already, or that another Celery worker finished, goes at once.
-- @include keys, clock, record, result_document, lane_ids, settle, tenant_counts

local bands, delayed, stats = KEYS, KEYS[7], KEYS[10]
local lane, ttl, ends = ARGV[1], ARGV[2], ARGV[3] == '1'
local present = ids_waiting(bands, delayed, lane)
local lost, jobs, now = {}, {}, now_ms()
if not present then return lost end

local function look_at(id)
  local rec = read_record(id)
  if not rec or rec.lane ~= lane or present[id] then return end
  local ended = rec.state == 'q' and state_of_result(redis.call('GETRANGE', META .. id, 0, 63))
  if rec.state == 'x' or ended then
    redis.call('DEL', JOB .. id)
    if rec.tenant ~= '' then count_out(rec.lane, rec.tenant, 1) end
  elseif rec.state == 'q' then
    lost[#lost + 1] = id
    if not ends then return end
    local text = 'its message is gone: the lane was purged, or another Celery worker took it'
    jobs[#jobs + 1] = {
      id = id, meta = ending(id, rec, 'failed', 'message_lost', text, now), lane = lane,
      tenant = rec.tenant,
    }
  end
end

for i = 4, #ARGV do look_at(ARGV[i]) end
settle(jobs, ttl)
if #jobs > 0 then redis.call('HINCRBY', stats, 'lost', #jobs) end
return lost
