-- What settled jobs lead to: an entry of the outbox each, which a worker turns into their
-- successors' messages (worker/celery_integration/continuations.py).
-- @include keys, chunks

-- Whoever settles jobs appends their entries, so that there is one for each settled job.
local function hand_on(jobs)
  local keys, at, done = {}, 0, {}
  for i, job in ipairs(jobs) do keys[i] = NEXT .. job.id end
  in_chunks(keys, function(...)
    for _, steps in ipairs(redis.call('MGET', ...)) do
      at = at + 1
      if steps then
        local job = jobs[at]
        redis.call('XADD', OUTBOX, '*', 'id', job.id, 'meta', job.meta, 'next', steps)
        done[#done + 1] = keys[at]
      end
    end
  end)
  in_chunks(done, function(...) redis.call('DEL', ...) end)
end
