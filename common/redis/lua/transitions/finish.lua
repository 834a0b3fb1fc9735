-- Publish N results and give up their leases; a job whose lease is gone is fenced.
-- KEYS: the lane's. ARGV: result_ttl, then per job: tag, id, meta,
--   '' where it succeeded or 'f', then 'i' where the input was at fault or 'm' where the model
--   was, 'b' where an input lies beside it; where it may lead others ':', for how many ms after
--   a success those to come get its result, and the flight's name; in front of it all
--   '@<tenant> ' where it has one
-- Returns the numbers (from 0) of the jobs that were fenced.

local ttl = ARGV[1]
local fenced, tags, gone, failed, model_failed, settled = {}, {}, {}, 0, 0, {}

for i = 2, #ARGV, 4 do
  local tag = ARGV[i]
  if redis.call('HDEL', KEYS[5], tag) == 0 then
    fenced[#fenced + 1] = (i - 2) / 4
  else
    local id, meta, kind = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    local result = META .. id
    tags[#tags + 1] = tag
    gone[#gone + 1] = JOB .. id
    redis.call('SET', result, meta, 'EX', ttl)
    redis.call('PUBLISH', result, meta)
    if kind ~= '' then
      local tenant, rest = string.match(kind, '^@(%S+) (.*)$')
      if tenant then
        settled[tenant] = (settled[tenant] or 0) + 1
        kind = rest
      end
      local flags, landed_ms, flight = string.match(kind, '^(%l*):?(%d*) ?(.*)$')
      local outcome = 'succeeded'
      if string.find(flags, 'f', 1, true) then
        failed = failed + 1
        outcome = string.find(flags, 'i', 1, true) and 'failed'
        if string.find(flags, 'm', 1, true) then model_failed = model_failed + 1 end
      end
      if string.find(flags, 'b', 1, true) then gone[#gone + 1] = BLOB .. id end
      if flight ~= '' then land(id, ttl, meta, outcome, flight, false, landed_ms) end
    end
  end
end
in_chunks(tags, function(...) redis.call('ZREM', KEYS[6], ...) end)
in_chunks(gone, function(...) redis.call('DEL', ...) end)
for tenant, count in pairs(settled) do count_out(KEYS[1], tenant, count) end
if #tags > failed then redis.call('HINCRBY', KEYS[10], 'succeeded', #tags - failed) end
if failed > 0 then redis.call('HINCRBY', KEYS[10], 'failed', failed) end
if model_failed > 0 then redis.call('HINCRBY', KEYS[10], 'model_failed', model_failed) end
if #fenced > 0 then redis.call('HINCRBY', KEYS[10], 'fenced', #fenced) end
return fenced
