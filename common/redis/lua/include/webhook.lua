-- Who is told of a job's end: kept beside its record until it is settled, at the latest here.
-- @include keys, outbox

local function keep_webhook(job, how)
  if how == 'arrived' then
    raise_event(job.job_id, redis.call('GET', META .. job.job_id), job.next)
  else
    redis.call('SET', NEXT .. job.job_id, job.next)
  end
end
