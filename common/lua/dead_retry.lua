-- Give dead jobs a new life: back into their lane with no attempts counted.
-- KEYS: the lane's. ARGV: ids ...
-- Returns how many were on the dead list and could be put back.

local revived, now = 0, string.format('%d', now_ms())
for i = 1, #ARGV do
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
    redis.call('SET', JOB .. id, 'q ' .. about.lane .. ' ' .. now)
    redis.call('LPUSH', KEYS[about.band or 1], string.sub(letter, newline + 1))
    revived = revived + 1
  end
end
return revived
