-- Purpose: Return dead jobs to their lane with no attempts counted.
-- KEYS: the lane's
-- ARGV:
--   1 window: how many messages a tenant has in a band's list
--   per job:
--     1 job_id
-- Returns: how many were on the dead list and could be returned
-- Moves: settled->q, none->q
-- Tests: tests/lua/test_dead_retry.py
-- @include keys, clock, record, tenant_window, tenant_counts

local bands, dead, letters = KEYS, KEYS[8], KEYS[9]
local window, now = tonumber(ARGV[1]), string.format('%d', now_ms())

local function revive(id)
  local letter = redis.call('HGET', letters, id)
  local newline = letter and string.find(letter, '\n', 1, true)
  local rec = read_record(id)
  local alive = rec and rec.state ~= 'x'
  if not newline or string.sub(id, 1, 11) == 'unreadable-' or alive then return 0 end
  local about = cjson.decode(string.sub(letter, 1, newline - 1))
  redis.call('ZREM', dead, id)
  redis.call('HDEL', letters, id)
  redis.call('DEL', META .. id)
  local band, tenant = about.band or 1, about.tenant or ''
  local message = string.sub(letter, newline + 1)
  redis.call('SET', JOB .. id, 'q ' .. about.lane .. ' ' .. origin(now, tenant))
  if tenant == '' then
    redis.call('LPUSH', bands[band], message)
  else
    admit_to_band(bands[band], about.lane, band, tenant, { message }, window)
    count_in(about.lane, tenant, 1)
  end
  return 1
end

local revived = 0
for i = 2, #ARGV do revived = revived + revive(ARGV[i]) end
return revived
