-- Purpose: Note a new batch, unless its tenant has too many unfinished ones.
-- KEYS: batch, unfinished batches, those of its tenant, list of its tenant
-- ARGV:
--   1 id
--   2 created_ms
--   3 max_open
--   4 forget_ms: batches of the list that were made before are dropped from it
--   per field of its record:
--     1 field
--     2 value
-- Returns: 1, or 0 where the tenant has too many
-- Moves: none
-- Tests: tests/lua/test_add_batch.py

local batch, open, own, list = unpack(KEYS)
if redis.call('ZCARD', own) >= tonumber(ARGV[3]) then return 0 end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', list, '-inf', ARGV[4], 'LIMIT', 0, 1000)) do
  redis.call('ZREM', list, id)
end
redis.call('HSET', batch, unpack(ARGV, 5))
redis.call('ZADD', open, ARGV[2], ARGV[1])
redis.call('ZADD', own, ARGV[2], ARGV[1])
redis.call('ZADD', list, ARGV[2], ARGV[1])
return 1
