-- Finds the jobs that were published already, by a call whose reply was lost. There are rarely any,
-- so one EXISTS checks a whole chunk, and only then each job.
-- @include keys, chunks

local function find_known(ids, known)
  for first = 1, #ids, CHUNK do
    local keys = {}
    for at = first, math.min(first + CHUNK - 1, #ids) do
      keys[#keys + 1] = JOB .. ids[at]
      keys[#keys + 1] = META .. ids[at]
    end
    if redis.call('EXISTS', unpack(keys)) > 0 then
      for at = 1, #keys, 2 do
        if redis.call('EXISTS', keys[at], keys[at + 1]) > 0 then known[keys[at]] = true end
      end
    end
  end
end
