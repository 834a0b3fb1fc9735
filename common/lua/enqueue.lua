-- Accept N jobs: the record, the input by reference and the message, or none of them.
-- KEYS: none by name (lanes differ per job).
-- ARGV: max_backlog, then per job: lane, band key, id, message, deadline_ms or '', blob or ''
-- Returns one number per job: its lane's backlog before it, or -1 where the lane is full.

local max_backlog = tonumber(ARGV[1])
local now = string.format('%d', now_ms())
local backlog, known, records, pushes, out = {}, {}, {}, {}, {}

local function backlog_of(lane)
  local total = redis.call('HLEN', 'lf:lane:' .. lane .. ':unacked')
    + redis.call('ZCARD', 'lf:lane:' .. lane .. ':delayed') + redis.call('LLEN', lane)
  for _, band in ipairs({ '3', '6', '9' }) do
    total = total + redis.call('LLEN', lane .. '\6\22' .. band)
  end
  return total
end

-- Who was published already: the answer to it got lost on the way. Seldom any, so all
-- are asked about at once, and one by one only then.
local function find_known(first, last)
  local keys = {}
  for i = first, last, 6 do
    keys[#keys + 1] = JOB .. ARGV[i + 2]
    keys[#keys + 1] = META .. ARGV[i + 2]
  end
  if redis.call('EXISTS', unpack(keys)) == 0 then return end
  for at = 1, #keys, 2 do
    if redis.call('EXISTS', keys[at], keys[at + 1]) > 0 then known[keys[at]] = true end
  end
end

for first = 2, #ARGV, 6 * CHUNK do
  find_known(first, math.min(first + 6 * CHUNK, #ARGV) - 1)
end
for i = 2, #ARGV, 6 do
  local lane, band, job = ARGV[i], ARGV[i + 1], JOB .. ARGV[i + 2]
  local depth = backlog[lane] or backlog_of(lane)
  backlog[lane] = depth
  if depth >= max_backlog then
    out[#out + 1] = -1
  elseif known[job] then
    out[#out + 1] = depth
  else
    backlog[lane] = depth + 1
    out[#out + 1] = depth
    known[job] = true
    records[#records + 1] = job
    local record = 'q ' .. lane .. ' ' .. now
    records[#records + 1] = ARGV[i + 4] == '' and record or record .. ' ' .. ARGV[i + 4]
    if ARGV[i + 5] ~= '' then redis.call('SET', BLOB .. ARGV[i + 2], ARGV[i + 5]) end
    local list = pushes[band]
    if not list then
      list = {}
      pushes[band] = list
    end
    list[#list + 1] = ARGV[i + 3]
  end
end
in_chunks(records, function(...) redis.call('MSET', ...) end)
for band, list in pairs(pushes) do
  in_chunks(list, function(...) redis.call('LPUSH', band, ...) end)
end
return out
