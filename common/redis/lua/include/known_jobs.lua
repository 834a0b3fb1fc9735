-- Who was published already: the answer to it got lost on the way. Seldom any, so all
-- are asked about at once, and one by one only then.
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
