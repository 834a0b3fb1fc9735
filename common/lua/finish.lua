-- Publish N results and give up their leases; a job whose lease is gone is fenced.
-- KEYS: the lane's. ARGV: result_ttl, batch size, infer_ms,
--   then per job: tag, id, state, meta, reason or '', error or '', has blob ('1' or '')
-- Returns the numbers (from 0) of the jobs that were fenced.

local ttl, size, infer_ms = ARGV[1], ARGV[2], ARGV[3]
local now = string.format('%d', now_ms())
local fenced, tags, done, failed = {}, {}, 0, 0

for i = 4, #ARGV, 7 do
  local tag = ARGV[i]
  if redis.call('HDEL', KEYS[5], tag) == 0 then
    fenced[#fenced + 1] = (i - 4) / 7
  else
    tags[#tags + 1] = tag
    local id, state, meta = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    local job = JOB .. id
    if ARGV[i + 4] == '' then
      redis.call('HSET', job, 'state', state, 'finished_ms', now,
        'batch', size, 'infer_ms', infer_ms)
      done = done + 1
    else
      redis.call('HSET', job, 'state', state, 'finished_ms', now, 'batch', size,
        'infer_ms', infer_ms, 'reason', ARGV[i + 4], 'error', ARGV[i + 5])
      failed = failed + 1
    end
    redis.call('EXPIRE', job, ttl)
    redis.call('SET', META .. id, meta, 'EX', ttl)
    redis.call('PUBLISH', META .. id, meta)
    if ARGV[i + 6] == '1' then redis.call('DEL', BLOB .. id) end
  end
end
for first = 1, #tags, 1000 do
  redis.call('ZREM', KEYS[6], unpack(tags, first, math.min(first + 999, #tags)))
end
if done > 0 then redis.call('HINCRBY', KEYS[10], 'succeeded', done) end
if failed > 0 then redis.call('HINCRBY', KEYS[10], 'failed', failed) end
if #fenced > 0 then redis.call('HINCRBY', KEYS[10], 'fenced', #fenced) end
return fenced
