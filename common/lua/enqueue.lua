-- Accept N jobs: the record, the input by reference and the message, or none of them.
-- KEYS: none by name (lanes differ per job).
-- ARGV: max_backlog, then per job: lane, band key, id, message, deadline_ms or '', blob or ''
-- Returns one number per job: its lane's backlog before it, or -1 where the lane is full.

local max_backlog = tonumber(ARGV[1])
local now = string.format('%d', now_ms())
local backlog, pushes, out = {}, {}, {}

local function backlog_of(lane)
  local total = redis.call('HLEN', 'lf:lane:' .. lane .. ':unacked')
    + redis.call('ZCARD', 'lf:lane:' .. lane .. ':delayed') + redis.call('LLEN', lane)
  for _, band in ipairs({ '3', '6', '9' }) do
    total = total + redis.call('LLEN', lane .. '\6\22' .. band)
  end
  return total
end

for i = 2, #ARGV, 6 do
  local lane, band, id = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local depth = backlog[lane] or backlog_of(lane)
  if depth >= max_backlog then
    out[#out + 1] = -1
    backlog[lane] = depth
  elseif redis.call('EXISTS', JOB .. id) == 1 then
    out[#out + 1] = depth -- published already: the answer to it got lost on the way
    backlog[lane] = depth
  else
    backlog[lane] = depth + 1
    out[#out + 1] = depth
    if ARGV[i + 4] == '' then
      redis.call('HSET', JOB .. id, 'state', 'queued', 'lane', lane, 'created_ms', now)
    else
      redis.call('HSET', JOB .. id, 'state', 'queued', 'lane', lane, 'created_ms', now,
        'deadline_ms', ARGV[i + 4])
    end
    if ARGV[i + 5] ~= '' then redis.call('SET', BLOB .. id, ARGV[i + 5]) end
    local list = pushes[band]
    if not list then
      list = {}
      pushes[band] = list
    end
    list[#list + 1] = ARGV[i + 3]
  end
end
for band, list in pairs(pushes) do
  for first = 1, #list, 1000 do
    redis.call('LPUSH', band, unpack(list, first, math.min(first + 999, #list)))
  end
end
return out
