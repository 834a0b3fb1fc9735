-- Delayed jobs are stored as `<band>:<message>`, scored by the millisecond at which they are due.
-- @include message, tenant_window

-- Move a due job to the front of its band.
local function make_due(bands, delayed, lane, member)
  local band, message = tonumber(string.sub(member, 1, 1)), string.sub(member, 3)
  redis.call('ZREM', delayed, member)
  put_back(bands[band], lane, band, message, tenant_of(message))
end
