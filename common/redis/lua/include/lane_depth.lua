-- The number of jobs of a lane.
-- @include keys

local function over_total(lane)
  local total = 0
  for _, count in ipairs(redis.call('HMGET', LANE .. lane .. ':over', '1:', '2:', '3:', '4:')) do
    total = total + (tonumber(count) or 0)
  end
  return total
end

-- Jobs of a lane that wait, are leased, or follow one that is.
local function backlog_of(lane)
  local total = redis.call('HLEN', LANE .. lane .. ':unacked') + over_total(lane)
    + redis.call('ZCARD', LANE .. lane .. ':delayed')
    + redis.call('ZCARD', LANE .. lane .. ':followers')
  for _, suffix in ipairs(BAND_SUFFIX) do
    total = total + redis.call('LLEN', lane .. suffix)
  end
  return total
end
