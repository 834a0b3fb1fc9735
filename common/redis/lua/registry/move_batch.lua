-- Purpose: Change a batch that is still as its caller knows it, with the parts of its results.
-- KEYS: batch, unfinished batches, those of its tenant
-- ARGV:
--   1 id
--   2 owner: who must hold it, or '' for anyone
--   3 states: in one of which it must be, with a blank before and after each
--   4 line: at which it must be, or ''
--   5 parts: how many
--   6 ttl_seconds: from its end on
--   7 tenant
--   8 body: of the event that its end is, or ''
--   per part:
--     1 parts_key
--     2 part
--   per field:
--     1 field
--     2 value
-- Returns: 1, or 0 where it is not so any more
-- Moves: none
-- Tests: tests/lua/test_move_batch.py
-- @include keys

local ENDS = ' completed failed expired cancelled '
local batch, open, own = unpack(KEYS)
local id, count = ARGV[1], tonumber(ARGV[5])
local status, owner, line = unpack(redis.call('HMGET', batch, 'status', 'owner', 'line'))
if not status or not string.find(ARGV[3], ' ' .. status .. ' ', 1, true) then return 0 end
if ARGV[2] ~= '' and owner ~= ARGV[2] then return 0 end
if ARGV[4] ~= '' and line ~= ARGV[4] then return 0 end
for i = 9, 7 + 2 * count, 2 do redis.call('RPUSH', ARGV[i], ARGV[i + 1]) end
redis.call('HSET', batch, unpack(ARGV, 9 + 2 * count))
local now = redis.call('HGET', batch, 'status')
if string.find(ENDS, ' ' .. now .. ' ', 1, true) then
  redis.call('ZREM', open, id)
  redis.call('ZREM', own, id)
  redis.call('EXPIRE', batch, ARGV[6])
  if ARGV[8] ~= '' then
    local words = { 'type', 'batch.' .. now, 'tenant', ARGV[7], 'id', id, 'target', '*' }
    redis.call('XADD', EVENTS, '*', 'body', ARGV[8], unpack(words))
  end
end
return 1
