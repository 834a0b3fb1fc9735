-- Purpose: Make a file visible whose parts are stored, unless its tenant keeps too much already.
-- KEYS: file, parts, list of the tenant, bytes of the tenant, expiry
-- ARGV:
--   1 id
--   2 created_ms
--   3 expires_ms
--   4 bytes
--   5 max_files: or 0 for no limit
--   6 max_bytes: or 0 for no limit
--   per field of its record:
--     1 field
--     2 value
-- Returns: 1, or 0 where the parts are gone, -1 (too many files) or -2 (too many bytes)
-- Moves: none
-- Tests: tests/lua/test_add_file.py

local file, parts, list, bytes, expiry = unpack(KEYS)
local id, size, most, most_bytes = ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if redis.call('EXISTS', file) == 1 then return 1 end
if redis.call('EXISTS', parts) == 0 then return 0 end
if most > 0 and redis.call('ZCARD', list) >= most then return -1 end
if most_bytes > 0 then
  local kept = size
  for _, one in ipairs(redis.call('HVALS', bytes)) do kept = kept + one end
  if kept > most_bytes then return -2 end
end
redis.call('HSET', file, unpack(ARGV, 7))
redis.call('PERSIST', parts)
redis.call('ZADD', list, ARGV[2], id)
redis.call('HSET', bytes, id, ARGV[4])
redis.call('ZADD', expiry, ARGV[3], id)
return 1
