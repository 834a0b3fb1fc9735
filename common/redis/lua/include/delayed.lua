-- Delayed jobs are stored as `<band>:<message>`, scored by the millisecond at which they are due.
-- @include message, tenant_window, copy_bound

-- Move a due job to the front of its band.
local function make_due(bands, delayed, lane, member)
  local band, message = tonumber(string.sub(member, 1, 1)), string.sub(member, 3)
  redis.call('ZREM', delayed, member)
  put_back(bands[band], lane, band, message, tenant_of(message))
end

-- Move those that are due, up to `limit`; returns how many.
local function make_all_due(bands, delayed, lane, now, limit, most)
  local due = read_bounded(limit, most, function(at)
    return redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', at, 1)[1]
  end)
  for i = #due, 1, -1 do make_due(bands, delayed, lane, due[i]) end
  return #due
end
