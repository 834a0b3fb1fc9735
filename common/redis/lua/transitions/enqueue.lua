-- Accept N jobs: the record, the input by reference and the message, or none of them.
-- KEYS: none by name (lanes differ per job).
-- ARGV: max_backlog, tenant window, how many jobs a tenant can list, how many tenants; per
--   tenant: name, jobs_per_second or 0, burst, max_in_flight or 0; then per job: lane,
--   band key, id, message, expires_ms or '', blob or '', '' or '<band 1-4> <deadline_ms or 0>
--   <flight>[ <seconds>]' where it may share an identical job's run, and how old a result may be
--   that one has brought already; tenant or ''
-- Returns one number per job: its lane's backlog before it, or -1 where the lane is full, -2 where
-- the tenant sends too fast, -3 where it has as many in flight as it may; then per tenant two: how
-- many it may send now, or -1, and how many milliseconds until it may send all of its burst.

local WORDS = 8
local max_backlog, window, list_max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = now_ms()
local now = string.format('%d', clock)
local backlog, known, records, pushes, out = {}, {}, {}, {}, {}
local owned, entered, tenants, jobs_at = {}, {}, {}, 5 + 4 * ARGV[4]

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

-- The list that the message of this job belongs to; a tenant's are kept by themselves.
local function list_for(lane, band, name)
  local key = name == '' and band or band .. ' ' .. name
  local kept = name == '' and pushes or owned
  if not kept[key] then
    kept[key] = name == '' and {} or { lane = lane, band = band, tenant = name, messages = {} }
  end
  return name == '' and kept[key] or kept[key].messages
end

local function push(i)
  if ARGV[i + 5] ~= '' then redis.call('SET', BLOB .. ARGV[i + 2], ARGV[i + 5]) end
  local list = list_for(ARGV[i], ARGV[i + 1], ARGV[i + 7])
  list[#list + 1] = ARGV[i + 3]
end

-- The same input succeeded since this job's own look into the cache: it gets that result, unless
-- it wants none that old. Ages are in whole seconds, as in the cache.
local function get_landed(id, tenant, other, oldest)
  local meta = redis.call('GET', META .. other)
  if not meta or string.sub(meta, 1, 19) ~= '{"status":"SUCCESS"' then return false end
  local head, middle, rest = split_meta(meta, other)
  if not head then return false end
  if oldest then
    local finished = tonumber(string.match(middle, '"finished_ms":(%d+)') or 0)
    if math.floor((clock - finished) / 1000) > oldest then return false end
  end
  local left = math.max(redis.call('PTTL', META .. other), 1)
  meta = join_meta(head, middle, rest, id, now, tenant)
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
  local band, deadline, wish = read_seat(ARGV[i + 6])
  local flight, oldest = string.match(wish, '^(%S+) ?(%d*)$')
  local hint = redis.call('GET', FLIGHT .. flight)
  if hint and string.sub(hint, 1, 1) == '!' then
    local other = string.sub(hint, 2)
    if get_landed(id, ARGV[i + 7], other, tonumber(oldest)) then return 'landed' end
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
    return 'follows'
  end
  local hint_of_mine = band .. ' ' .. deadline .. ' ' .. id
  redis.call('SET', FLIGHT .. flight, hint_of_mine, 'EX', HINT_SECONDS)
  return nil
end

-- A bucket is the time at which it will be full again; before that it lacks what would flow in
-- until then.
local function bucket(name, per_second, burst)
  if per_second <= 0 then return math.huge, 0 end
  local full_at = tonumber(redis.call('GET', RATE .. name)) or 0
  local gap = 1000 / per_second
  return math.floor(burst - math.max(full_at - clock, 0) / gap + 1e-6), gap
end

local function read_tenant(at)
  local name, burst, most = ARGV[at], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local tokens, gap = bucket(name, tonumber(ARGV[at + 1]), burst)
  local room = math.huge
  if most > 0 then room = most - (tonumber(redis.call('HGET', IN_FLIGHT, name)) or 0) end
  tenants[name] = { tokens = tokens, gap = gap, room = room, taken = 0 }
end

-- What keeps the tenant from sending this one, nil where nothing does.
local function refusal(tenant)
  if tenant.tokens < 1 then return -2 end
  if tenant.room < 1 then return -3 end
  tenant.tokens, tenant.room, tenant.taken = tenant.tokens - 1, tenant.room - 1, tenant.taken + 1
end

local function write_tenant(name, tenant)
  if tenant.gap == 0 then return -1, 0 end
  local full_at = math.max(tonumber(redis.call('GET', RATE .. name)) or 0, clock)
    + tenant.taken * tenant.gap
  local left = math.ceil(full_at - clock)
  if tenant.taken > 0 then
    redis.call('SET', RATE .. name, string.format('%.3f', full_at), 'PX', math.max(left, 1))
  end
  return math.max(tenant.tokens, 0), left
end

local function note_entry(lane, name)
  local lanes = entered[name] or {}
  entered[name] = lanes
  lanes[lane] = (lanes[lane] or 0) + 1
end

for at = 5, jobs_at - 1, 4 do read_tenant(at) end
for first = jobs_at, #ARGV, WORDS * CHUNK do
  find_known(first, math.min(first + WORDS * CHUNK, #ARGV + 1) - 1)
end
for i = jobs_at, #ARGV, WORDS do
  local lane, job, name = ARGV[i], JOB .. ARGV[i + 2], ARGV[i + 7]
  local depth = backlog[lane] or backlog_of(lane)
  backlog[lane] = depth
  local refused = depth >= max_backlog and not known[job] and -1
  if not refused and name ~= '' and not known[job] then refused = refusal(tenants[name]) end
  if refused then
    out[#out + 1] = refused
  elseif known[job] then
    out[#out + 1] = depth
  else
    backlog[lane] = depth + 1
    out[#out + 1] = depth
    known[job] = true
    list_job(name, lane, ARGV[i + 2])
    local record = 'q ' .. lane .. ' ' .. origin(now, name)
    if ARGV[i + 4] ~= '' then record = record .. ' ' .. ARGV[i + 4] end
    local aboard
    if ARGV[i + 6] == '' then
      records[#records + 1] = job
      records[#records + 1] = record
      push(i)
    else
      aboard = board(i, record)
      if not aboard then
        redis.call('SET', job, record) -- at once: the next in this call may follow it
        push(i)
      end
    end
    if name ~= '' and aboard ~= 'landed' then note_entry(lane, name) end
  end
end
in_chunks(records, function(...) redis.call('MSET', ...) end)
for band, list in pairs(pushes) do
  in_chunks(list, function(...) redis.call('LPUSH', band, ...) end)
end
write_lists(now, list_max)
for name, lanes in pairs(entered) do
  for lane, count in pairs(lanes) do count_in(lane, name, count) end
end
for _, one in pairs(owned) do
  local step = tonumber(string.sub(one.band, #one.lane + 3)) or 0
  local new = place(one.band, one.lane, step / 3 + 1, one.tenant, one.messages, window)
  -- Workers whose hands are full with others' jobs would not look before the next batch.
  if new and redis.call('HLEN', LANE .. one.lane .. ':tenants') > 1 then
    redis.call('PUBLISH', 'lf:hurry', one.lane)
  end
end
for at = 5, jobs_at - 1, 4 do
  out[#out + 1], out[#out + 2] = write_tenant(ARGV[at], tenants[ARGV[at]])
end
return out
