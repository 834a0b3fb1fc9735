-- The number of jobs of a lane.
-- @include keys

local function over_total(lane)
  local total = 0
  for _, count in ipairs(redis.call('HMGET', LANE .. lane .. ':over', '1:', '2:', '3:', '4:')) do
    total = total + (tonumber(count) or 0)
  end
  return total
end

-- Jobs of a lane that wait, are leased, or follow one that is; and how many wait in lower bands.
-- Mostly there are none but in the first band and leased: one call finds that out, in place of six.
local function backlog_of(lane)
  local key = LANE .. lane
  local total = redis.call('HLEN', key .. ':unacked') + redis.call('LLEN', lane .. BAND_SUFFIX[1])
  if redis.call('EXISTS', key .. ':over', key .. ':delayed', key .. ':followers',
    lane .. BAND_SUFFIX[2], lane .. BAND_SUFFIX[3], lane .. BAND_SUFFIX[4]) == 0 then
    return total, 0
  end
  local lower = 0
  for band = 2, 4 do lower = lower + redis.call('LLEN', lane .. BAND_SUFFIX[band]) end
  return total + lower + over_total(lane) + redis.call('ZCARD', key .. ':delayed')
    + redis.call('ZCARD', key .. ':followers'), lower
end
