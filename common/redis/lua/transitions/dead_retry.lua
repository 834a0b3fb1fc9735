-- Give dead jobs a new life: back into their lane with no attempts counted.
-- KEYS: the lane's. ARGV: tenant window, ids ...
-- Returns how many were on the dead list and could be put back.

local revived, now = 0, string.format('%d', now_ms())
local window = tonumber(ARGV[1])
for i = 2, #ARGV do
  local id = ARGV[i]
  local letter = redis.call('HGET', KEYS[9], id)
  local newline = letter and string.find(letter, '\n', 1, true)
  local rec = parse_record(redis.call('GET', JOB .. id))
  local alive = rec and rec.state ~= 'x'
  if newline and string.sub(id, 1, 11) ~= 'unreadable-' and not alive then
    local about = cjson.decode(string.sub(letter, 1, newline - 1))
    redis.call('ZREM', KEYS[8], id)
    redis.call('HDEL', KEYS[9], id)
    redis.call('DEL', META .. id)
    local band, tenant = about.band or 1, about.tenant or ''
    local message = string.sub(letter, newline + 1)
    redis.call('SET', JOB .. id, 'q ' .. about.lane .. ' ' .. origin(now, tenant))
    if tenant == '' then
      redis.call('LPUSH', KEYS[band], message)
    else
      place(KEYS[band], about.lane, band, tenant, { message }, window)
      count_in(about.lane, tenant, 1)
    end
    revived = revived + 1
  end
end
return revived
