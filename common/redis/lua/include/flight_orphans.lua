-- Expires followers whose deadline has passed, and frees those without a leader.
-- @include keys, record, single_flight, flight_leave, flight_share, flight_end, settle

local function expire_due(lane, limit, ttl, now)
  local index = follower_index(lane)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, limit)) do
    local rec = read_record(id)
    if not rec or rec.state ~= 'w' then
      redis.call('ZREM', index, id)
    else
      local value = redis.call('HGET', FOLLOWERS .. rec.tag, id)
      local _, deadline = read_entry(value)
      local leader = read_record(rec.tag)
      local in_time = leader and leader.state == 'r' and leader.started <= rec.deadline
      if value and in_time and (deadline == 0 or deadline > now) then
        redis.call('ZADD', index, deadline > 0 and deadline or 'inf', id) -- leader began in time
      else
        -- One by one: it may be the leader of the next, which then gets another leader.
        settle({ expired_follower(id, rec, leave(id, rec), now) }, ttl)
      end
    end
  end
end

-- Every script that settles a leader ends its flight, so a follower without a leader was left by
-- a foreign worker or by an eviction. A few are checked each time.
local function free_stranded(lane)
  for _, id in ipairs(redis.call('ZRANDMEMBER', follower_index(lane), 5)) do
    local rec = read_record(id)
    if not rec or rec.state ~= 'w' then
      redis.call('ZREM', follower_index(lane), id)
    elseif not is_under_way(read_record(rec.tag), rec.tag) then
      end_flight({ id = rec.tag })
    end
  end
end

local function look_after_followers(lane, limit, ttl, now)
  if redis.call('EXISTS', follower_index(lane)) == 0 then return end
  expire_due(lane, limit, ttl, now)
  free_stranded(lane)
end
