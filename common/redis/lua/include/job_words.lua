-- The words of a job to accept, as enqueue.lua lists them.

-- One table, reused for each job: words that are not sent stay empty.
local job = { expires_ms = '', blob = '', tenant = '', flight = '', labels = '', next = '' }

local function read_job(i, words)
  job.lane, job.band_key, job.job_id, job.message = unpack(ARGV, i, i + 3)
  if words > 4 then job.expires_ms, job.blob, job.tenant = unpack(ARGV, i + 4, i + 6) end
  if words > 7 then
    job.flight, job.band, job.deadline_ms, job.max_age_seconds = unpack(ARGV, i + 7, i + 10)
  end
  if words > 11 then job.labels = ARGV[i + 11] end
  if words > 12 then job.next = ARGV[i + 12] end
  return job
end
