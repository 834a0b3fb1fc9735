-- Makes a follower the leader where the former leader ended without a result to share.
-- @include keys, record, tenant_window, single_flight, flight_followers

-- The most urgent, then the oldest. It inherits the attempts, as its input is the same; where the
-- leader has spent them all, one is left to it. Returns the flight's hint.
local function promote(followers, flight, attempts)
  local best
  for _, one in ipairs(followers) do
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
  local entry = best.band .. ' ' .. best.deadline .. ' '
  if #followers > 1 then
    redis.call('HSET', FOLLOWERS .. best.id, '', entry .. flight)
    move_followers(followers, best.id, best)
  end
  return entry .. best.id
end
