-- What settled jobs lead to: an entry of an outbox each. A worker turns those of Celery's canvas
-- into the successors' messages (worker/celery_integration/continuations.py), a courier those with
-- a webhook into deliveries (worker/courier/event_reader.py).
-- @include keys, chunks

-- A larger result is not told, but linked to: then only what is known of the job is kept.
local EVENT_BYTES, EVENT_TAIL = 32768, 2048

local function raise_event(id, meta, steps)
  local name = 'meta'
  if #meta > EVENT_BYTES then name, meta = 'tail', string.sub(meta, -EVENT_TAIL) end
  redis.call('XADD', EVENTS, '*', 'id', id, 'next', steps, name, meta)
end

-- Whoever settles jobs appends their entries, so that there is one for each settled job.
local function hand_on(jobs)
  local keys, at, done = {}, 0, {}
  for i, job in ipairs(jobs) do keys[i] = NEXT .. job.id end
  in_chunks(keys, function(...)
    for _, steps in ipairs(redis.call('MGET', ...)) do
      at = at + 1
      if steps then
        local job, hooked = jobs[at], string.sub(steps, 1, 11) == '{"webhook":'
        if hooked then raise_event(job.id, job.meta, steps) end
        if not hooked or string.sub(steps, -3) ~= '"}\n' then
          redis.call('XADD', OUTBOX, '*', 'id', job.id, 'meta', job.meta, 'next', steps)
        end
        done[#done + 1] = keys[at]
      end
    end
  end)
  in_chunks(done, function(...) redis.call('DEL', ...) end)
end
