-- Accept N jobs: the record, the input by reference and the message, or none of them.
-- KEYS: none by name (lanes differ per job).
-- ARGV: max_backlog, then per job: lane, band key, id, message, expires_ms or '', blob or '',
--   '' or '<band 1-4> <deadline_ms or 0> <flight>' where it may share an identical job's run
-- Returns one number per job: its lane's backlog before it, or -1 where the lane is full.

local WORDS = 7
local max_backlog = tonumber(ARGV[1])
local now = string.format('%d', now_ms())
local backlog, known, records, pushes, out = {}, {}, {}, {}, {}

local function backlog_of(lane)
  local total = redis.call('HLEN', 'lf:lane:' .. lane .. ':unacked')
    + redis.call('ZCARD', 'lf:lane:' .. lane .. ':delayed') + redis.call('LLEN', lane)
    + redis.call('ZCARD', follower_index(lane))
  for _, band in ipairs({ '3', '6', '9' }) do
    total = total + redis.call('LLEN', lane .. '\6\22' .. band)
  end
  return total
end

-- Who was published already: the answer to it got lost on the way. Seldom any, so all
-- are asked about at once, and one by one only then.
local function find_known(first, last)
  local keys = {}
  for i = first, last, WORDS do
    keys[#keys + 1] = JOB .. ARGV[i + 2]
    keys[#keys + 1] = META .. ARGV[i + 2]
  end
  if redis.call('EXISTS', unpack(keys)) == 0 then return end
  for at = 1, #keys, 2 do
    if redis.call('EXISTS', keys[at], keys[at + 1]) > 0 then known[keys[at]] = true end
  end
end

local function push(i)
  local band = ARGV[i + 1]
  if ARGV[i + 5] ~= '' then redis.call('SET', BLOB .. ARGV[i + 2], ARGV[i + 5]) end
  local list = pushes[band]
  if not list then
    list = {}
    pushes[band] = list
  end
  list[#list + 1] = ARGV[i + 3]
end

-- The same input succeeded since this job's own look into the cache: it gets that result.
local function get_landed(id, other)
  local meta = redis.call('GET', META .. other)
  if not meta or string.sub(meta, 1, 19) ~= '{"status":"SUCCESS"' then return false end
  local head, middle, rest = split_meta(meta, other)
  if not head then return false end
  local left = math.max(redis.call('PTTL', META .. other), 1)
  meta = join_meta(head, middle, rest, id, now)
  redis.call('SET', META .. id, meta, 'PX', left)
  redis.call('PUBLISH', META .. id, meta)
  return true
end

local function follow(id, rec, leader, seat, band, deadline, flight)
  if redis.call('EXISTS', FOLLOWERS .. leader) == 0 then
    redis.call('HSET', FOLLOWERS .. leader, '', band .. ' ' .. deadline .. ' ' .. flight)
  end
  redis.call('HSET', FOLLOWERS .. leader, id, seat)
  redis.call('ZADD', follower_index(rec.lane), rec.deadline > 0 and rec.deadline or 'inf', id)
  redis.call('SET', JOB .. id, follower_text(rec, leader))
end

-- Whether this job need not wait in its lane: an identical one is under way, or was until
-- a moment ago. Otherwise it leads from now on. One that is more urgent than a leader that
-- still waits overtakes it, and is followed by it.
local function board(i, record)
  local id, rec = ARGV[i + 2], parse_record(record)
  local band, deadline, flight = read_seat(ARGV[i + 6])
  local hint = redis.call('GET', FLIGHT .. flight)
  if hint and string.sub(hint, 1, 1) == '!' then
    if get_landed(id, string.sub(hint, 2)) then return true end
    hint = nil
  end
  local leader_band, leader_deadline, leader = read_seat(hint)
  local lead = leader and parse_record(redis.call('GET', JOB .. leader))
  if leader and not is_under_way(lead, leader) then
    abandon(leader, flight)
    leader_band, leader_deadline, leader = read_seat(redis.call('GET', FLIGHT .. flight))
    lead = leader and parse_record(redis.call('GET', JOB .. leader))
  end
  if lead and lead.state == 'q' and lead.attempts == 0 and band < leader_band then
    local seat = leader_band .. ' ' .. leader_deadline .. ' '
    follow(leader, lead, id, seat, band, deadline, flight)
  elseif lead and redis.call('HLEN', FOLLOWERS .. leader) <= MAX_FOLLOWERS then
    local seat = band .. ' ' .. deadline .. ' ' .. ARGV[i + 3]
    follow(id, rec, leader, seat, leader_band, leader_deadline, flight)
    if ARGV[i + 5] ~= '' then redis.call('SET', BLOB .. id, ARGV[i + 5]) end
    redis.call('EXPIRE', FLIGHT .. flight, HINT_SECONDS)
    return true
  end
  local hint_of_mine = band .. ' ' .. deadline .. ' ' .. id
  redis.call('SET', FLIGHT .. flight, hint_of_mine, 'EX', HINT_SECONDS)
  return false
end

for first = 2, #ARGV, WORDS * CHUNK do
  find_known(first, math.min(first + WORDS * CHUNK, #ARGV + 1) - 1)
end
for i = 2, #ARGV, WORDS do
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
    list_job('', lane, ARGV[i + 2])
    local record = 'q ' .. lane .. ' ' .. now
    if ARGV[i + 4] ~= '' then record = record .. ' ' .. ARGV[i + 4] end
    if ARGV[i + 6] == '' then
      records[#records + 1] = job
      records[#records + 1] = record
      push(i)
    elseif not board(i, record) then
      redis.call('SET', job, record) -- at once: the next in this call may follow it
      push(i)
    end
  end
end
in_chunks(records, function(...) redis.call('MSET', ...) end)
for band, list in pairs(pushes) do
  in_chunks(list, function(...) redis.call('LPUSH', band, ...) end)
end
write_lists(now, 100000)
return out
