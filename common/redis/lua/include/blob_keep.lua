-- Keeps the large input of a job that was accepted.
-- @include keys

local PLACED = '\0placed'

local function keep_blob(job)
  if job.blob == PLACED then
    redis.call('PERSIST', BLOB .. job.job_id)
  else
    redis.call('SET', BLOB .. job.job_id, job.blob)
  end
end
