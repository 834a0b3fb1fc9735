-- Put after shared.lua in every script: jobs with the same input that are under way together.
-- The first one, the leader, goes to the lane; the others follow it and get what it gets.
--
--   lf:flight:<lane>:<digest>   '<band> <deadline_ms> <leader>', or '!<id>' of one that
--                               succeeded a moment ago; a hint, it may name a job that is gone
--   lf:followers:<leader>       '' -> '<band> <deadline_ms> <flight>' of the leader, and per
--                               follower: id -> '<band> <deadline_ms> <message>', where the
--                               message is empty while it still waits in its lane
--   lf:lane:<lane>:followers    zset: follower -> ms after which it expires, or inf
--
-- A follower's record is w, and its tag is the leader's id. One that was overtaken by a job of
-- a higher band follows that one, and may have followers itself.

local FLIGHT, FOLLOWERS = 'lf:flight:', 'lf:followers:'
local HINT_SECONDS = 3600
local MAX_FOLLOWERS = 2000 -- one script publishes for all of them: about 10 us each
local BAND_SUFFIX = { '', '\6\0223', '\6\0226', '\6\0229' }
local SHARED = ',"shared":true'

local function follower_index(lane)
  return 'lf:lane:' .. lane .. ':followers'
end

local function read_seat(value)
  if not value then return nil end
  local band, deadline, rest = string.match(value, '^(%d) (%d+) (.*)$')
  return tonumber(band), tonumber(deadline), rest
end

local function follower_text(rec, leader)
  local word = origin(rec.created, rec.tenant)
  return 'w ' .. rec.lane .. ' ' .. word .. ' ' .. rec.deadline .. ' 0 0 ' .. leader
end

-- A job's result in three parts, between which another's id and time of acceptance go; nil
-- where it is not as we write it. A quotation mark inside of a JSON string has a backslash
-- before it, so only keys can match; what the model returned may have such keys, but what
-- we write comes last.
local function split_meta(meta, id)
  local mark, at, from = '"task_id":"' .. id .. '"', nil, 1
  repeat
    local first, last = string.find(meta, mark, from, true)
    if first then at, from = first, last + 1 end
  until not first
  if not at then return nil end
  local tail = string.sub(meta, at + #mark)
  local first, last = string.find(tail, '"created_ms":%w+')
  if not first or string.sub(tail, -2) ~= '}}' then return nil end
  local rest = string.sub(tail, last + 1, -3)
  rest = string.gsub(rest, ',"tenant":"[^"]+"', '') -- the follower has its own
  if string.sub(rest, -#SHARED) ~= SHARED then rest = rest .. SHARED end
  return string.sub(meta, 1, at - 1), string.sub(tail, 1, first - 1), rest
end

local function join_meta(head, middle, rest, id, created, tenant)
  local owner = tenant ~= '' and ',"tenant":"' .. tenant .. '"' or ''
  return head .. '"task_id":"' .. id .. '"' .. middle .. '"created_ms":' .. created .. owner
    .. rest .. '}}'
end

-- Take a follower out of its flight; returns whether its message still waits in its lane.
local function leave(id, rec)
  local crew = FOLLOWERS .. rec.tag
  local value = redis.call('HGET', crew, id)
  redis.call('HDEL', crew, id)
  if redis.call('HLEN', crew) == 1 then redis.call('DEL', crew) end -- its leader's own seat
  redis.call('ZREM', follower_index(rec.lane), id)
  if not value then return false end
  local _, _, message = read_seat(value)
  return message == ''
end

-- The message of a follower that was overtaken has been met in its lane: from now on it is
-- kept with its leader. False where there is none, which should not be.
local function keep_message(id, rec, message)
  local value = redis.call('HGET', FOLLOWERS .. rec.tag, id)
  if not value then return false end
  local band, deadline = read_seat(value)
  redis.call('HSET', FOLLOWERS .. rec.tag, id, band .. ' ' .. deadline .. ' ' .. message)
  return true
end

-- Publish how a follower ended. A message that still waits must find a record.
local function settle_follower(id, rec, meta, ttl, listed, outcome)
  settle(id, meta, ttl, false, outcome)
  if not listed then return end
  redis.call('SET', JOB .. id, 'x ' .. rec.lane .. ' ' .. origin(rec.created, rec.tenant))
end

local function expire_follower(id, rec, ttl, listed, now)
  local text = 'the deadline passed before the identical job that it waited for was done'
  settle_follower(id, rec, ending(id, rec, 'expired', 'deadline', text, now), ttl, listed)
  redis.call('HINCRBY', 'lf:lane:' .. rec.lane .. ':stats', 'expired', 1)
end

-- The followers of this leader, from the reply to HGETALL: records, seats; and its own seat.
local function read_crew(leader, fields)
  local crew, own, ids = {}, nil, {}
  for i = 1, #fields, 2 do
    if fields[i] == '' then
      own = fields[i + 1]
    else
      local band, deadline, message = read_seat(fields[i + 1])
      crew[#crew + 1] = {
        id = fields[i], band = band, deadline = deadline, message = message, value = fields[i + 1],
      }
      ids[#ids + 1] = JOB .. fields[i]
    end
  end
  local texts, known = {}, {}
  in_chunks(ids, function(...)
    for _, text in ipairs(redis.call('MGET', ...)) do texts[#texts + 1] = text end
  end)
  for i, one in ipairs(crew) do
    one.rec = parse_record(texts[i] or '')
    if one.rec and one.rec.state == 'w' and one.rec.tag == leader then known[#known + 1] = one end
  end
  return known, own
end

local function share(crew, leader_started, head, middle, rest, ttl, outcome)
  local now, counts = now_ms(), {}
  for _, one in ipairs(crew) do
    local rec, listed = one.rec, one.message == ''
    redis.call('ZREM', follower_index(rec.lane), one.id)
    local began_late = rec.deadline > 0 and rec.deadline <= now and leader_started > rec.deadline
    if (one.deadline > 0 and one.deadline <= now) or began_late then
      expire_follower(one.id, rec, ttl, listed, now)
    else
      local meta = join_meta(head, middle, rest, one.id, rec.created, rec.tenant)
      settle_follower(one.id, rec, meta, ttl, listed, outcome)
      counts[rec.lane] = (counts[rec.lane] or 0) + 1
    end
  end
  for lane, count in pairs(counts) do
    -- Not among succeeded or failed: those took a place in a worker, which rates go by.
    redis.call('HINCRBY', 'lf:lane:' .. lane .. ':stats', 'shared', count)
  end
end

local function seat_with(crew, leader, except)
  local seats, records = {}, {}
  for _, one in ipairs(crew) do
    if one ~= except then
      seats[#seats + 1] = one.id
      seats[#seats + 1] = one.value
      records[#records + 1] = JOB .. one.id
      records[#records + 1] = follower_text(one.rec, leader)
    end
  end
  in_chunks(seats, function(...) redis.call('HSET', FOLLOWERS .. leader, ...) end)
  in_chunks(records, function(...) redis.call('MSET', ...) end)
end

-- One follower takes the place of a leader that brought nothing for them: the most urgent,
-- then the oldest. It inherits the attempts, as it brings the same input to the same worker;
-- one try is left to it where the leader spent them all.
local function promote(crew, flight, attempts)
  local best
  for _, one in ipairs(crew) do
    if not best or one.band < best.band
      or (one.band == best.band and tonumber(one.rec.created) < tonumber(best.rec.created)) then
      best = one
    end
  end
  if not best then return nil end
  local rec = best.rec
  redis.call('ZREM', follower_index(rec.lane), best.id)
  rec.state, rec.tag, rec.attempts = 'q', '-', attempts
  redis.call('SET', JOB .. best.id, record_text(rec))
  if best.message ~= '' then
    local list = rec.lane .. BAND_SUFFIX[best.band]
    put_back(list, rec.lane, best.band, best.message, rec.tenant)
  end
  local seat = best.band .. ' ' .. best.deadline .. ' '
  if #crew > 1 then
    redis.call('HSET', FOLLOWERS .. best.id, '', seat .. flight)
    seat_with(crew, best.id, best)
  end
  return seat .. best.id
end

-- A job that may lead others is about to be settled: end its flight. outcome says that the
-- followers get what it got: 'succeeded', or 'failed' by a fault of the input. Whoever
-- finished it knows the flight; otherwise the followers tell.
land = function(id, ttl, meta, outcome, flight, buried, landed_ms)
  local fields = redis.call('HGETALL', FOLLOWERS .. id)
  local seat
  if #fields > 0 then
    redis.call('DEL', FOLLOWERS .. id)
    local crew, own = read_crew(id, fields)
    local _, _, name = read_seat(own)
    flight = flight or name
    local rec = parse_record(redis.call('GET', JOB .. id)) or blank_record('-')
    local head, middle, rest
    if outcome then head, middle, rest = split_meta(meta, id) end
    if head then
      share(crew, rec.started, head, middle, rest, ttl, outcome)
    elseif rec.state == 'w' and redis.call('EXISTS', FOLLOWERS .. rec.tag) == 1 then
      seat_with(crew, rec.tag)
      return
    else
      seat = promote(crew, flight, buried and math.max(rec.attempts - 1, 0) or rec.attempts)
    end
  end
  local hint = flight and redis.call('GET', FLIGHT .. flight)
  if not hint then return end
  local _, _, leader = read_seat(hint)
  if leader ~= id then return end -- another leads it by now
  if seat then
    redis.call('SET', FLIGHT .. flight, seat, 'EX', HINT_SECONDS)
  elseif outcome == 'succeeded' and landed_ms then
    -- For those who have looked into the cache already, and not yet enqueued.
    redis.call('SET', FLIGHT .. flight, '!' .. id, 'PX', landed_ms)
  else
    redis.call('DEL', FLIGHT .. flight)
  end
end

-- Whether jobs may follow it, or go on to: it is neither settled nor lost. A foreign Celery
-- worker that took it leaves its record behind.
local function is_under_way(rec, id)
  return rec and rec.state ~= 'x' and redis.call('EXISTS', META .. id) == 0
end

-- Whatever became of this leader, its followers go on without it.
local function abandon(leader, flight)
  land(leader, '1', nil, nil, flight)
end

local function expire_due(lane, limit, ttl, now)
  local index = follower_index(lane)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, limit)) do
    local rec = parse_record(redis.call('GET', JOB .. id))
    if not rec or rec.state ~= 'w' then
      redis.call('ZREM', index, id)
    else
      local value = redis.call('HGET', FOLLOWERS .. rec.tag, id)
      local _, deadline = read_seat(value)
      local leader = parse_record(redis.call('GET', JOB .. rec.tag))
      local in_time = leader and leader.state == 'r' and leader.started <= rec.deadline
      if value and in_time and (deadline == 0 or deadline > now) then
        redis.call('ZADD', index, deadline > 0 and deadline or 'inf', id) -- it began; may it end
      else
        expire_follower(id, rec, ttl, leave(id, rec), now)
      end
    end
  end
end

-- Every script that settles a leader ends its flight, so a follower without one was left by
-- somebody else: a foreign worker, or an eviction. A few are looked at each time.
local function free_stranded(lane)
  for _, id in ipairs(redis.call('ZRANDMEMBER', follower_index(lane), 5)) do
    local rec = parse_record(redis.call('GET', JOB .. id))
    if not rec or rec.state ~= 'w' then
      redis.call('ZREM', follower_index(lane), id)
    elseif not is_under_way(parse_record(redis.call('GET', JOB .. rec.tag)), rec.tag) then
      abandon(rec.tag)
    end
  end
end

local function look_after_followers(lane, limit, ttl, now)
  if redis.call('EXISTS', follower_index(lane)) == 0 then return end
  expire_due(lane, limit, ttl, now)
  free_stranded(lane)
end
