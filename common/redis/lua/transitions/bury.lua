-- Park N leased jobs on the dead list with their reason, and publish the failure.
-- KEYS: the lane's. ARGV: lane, result_ttl, dead_max_count, worker,
--   then per job: tag, id or '', reason, error, attempts, meta or ''
-- Returns how many were still ours.

local lane, ttl, keep, worker = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local now, buried = now_ms(), 0
for i = 5, #ARGV, 6 do
  local tag, id = ARGV[i], ARGV[i + 1]
  local stored = redis.call('HGET', KEYS[5], tag)
  if stored then
    redis.call('HDEL', KEYS[5], tag)
    redis.call('ZREM', KEYS[6], tag)
    local message = unwrap(stored, lane)
    id = id_of(message) or id -- the one that reserve wrote a record for
    bury(KEYS, id, lane, band_of(tag), message, ARGV[i + 2], ARGV[i + 3],
      tonumber(ARGV[i + 4]), worker, now, keep)
    if ARGV[i + 2] == 'attempts_exhausted' and ARGV[i + 4] == '1' then
      redis.call('HINCRBY', KEYS[10], 'model_failed', 1)
    end
    local meta = ARGV[i + 5]
    if meta == '' then
      local rec = leased_record(id, lane, tag)
      meta = ending(id, rec, 'failed', ARGV[i + 2], ARGV[i + 3], now)
    end
    settle(id, meta, ttl, true)
    buried = buried + 1
  end
end
return buried
