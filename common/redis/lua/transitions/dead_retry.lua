-- Purpose: Return dead jobs to their lane with no attempts counted.
-- KEYS: the lane's
-- ARGV:
--   1 window: how many messages a tenant has in a band's list
--   2 tenant: whose limits apply to its jobs, or ''
--   3 jobs_per_second: or 0
--   4 burst
--   5 max_in_flight: or 0
--   per job:
--     1 job_id
-- Returns: {how many ids were looked at, how many were on the dead list and could be returned, 0 or
--   the code of the limit that refused the next: -2 (rate exceeded) or -3 (too many in flight)}
-- Moves: settled->q, none->q
-- Tests: tests/lua/test_dead_retry.py
-- The other ids are for another call, or another time.
-- @include keys, clock, message, record, tenant_window, tenant_counts, rate_limit, copy_bound

local LABELS_SECONDS = 8 * 86400 -- longer than a job lives
local bands, dead, letters = KEYS, KEYS[8], KEYS[9]
local window, clock, refused = tonumber(ARGV[1]), now_ms(), 0
local now, limits = string.format('%d', clock), read_limits(ARGV, 2, 6, clock)

local function put_in_lane(id, about, message)
  local band, tenant = about.band or 1, about.tenant or ''
  redis.call('SET', JOB .. id, 'q ' .. about.lane .. ' ' .. origin(now, tenant))
  if tenant == '' then
    redis.call('LPUSH', bands[band], message)
  else
    admit_to_band(bands[band], about.lane, band, tenant, { message }, window)
    count_in(about.lane, tenant, 1)
  end
end

local function revive(id)
  local letter = redis.call('HGET', letters, id)
  copied_bytes = copied_bytes + #(letter or '')
  local newline = letter and string.find(letter, '\n', 1, true)
  local rec = read_record(id)
  local alive = rec and rec.state ~= 'x'
  if not newline or string.sub(id, 1, 11) == 'unreadable-' or alive then return 0 end
  local about = cjson.decode(string.sub(letter, 1, newline - 1))
  local limited = about.tenant and limits[about.tenant]
  refused = limited and refusal(limited) or 0
  if refused < 0 then return 0 end
  redis.call('ZREM', dead, id)
  redis.call('HDEL', letters, id)
  redis.call('DEL', META .. id)
  local message = string.sub(letter, newline + 1)
  put_in_lane(id, about, message)
  local labels = labels_in(message) -- the index has them under the time of its first life
  if labels then redis.call('SET', LABELS .. id, labels, 'EX', LABELS_SECONDS) end
  local webhook = webhook_of(message)
  if webhook then redis.call('SET', NEXT .. id, '{"webhook":' .. webhook .. '}\n') end
  return 1
end

local looked, revived = 0, 0
for i = 6, #ARGV do
  if has_copied_most() then break end
  revived = revived + revive(ARGV[i])
  if refused < 0 then break end
  looked = looked + 1
end
write_limits(limits, ARGV, 2, 6, clock, {})
return { looked, revived, refused }
