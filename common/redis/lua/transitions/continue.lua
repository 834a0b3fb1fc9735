-- Purpose: Push what an entry of the outbox leads to, and remove the entry: both, or neither.
-- KEYS: none by name (messages name their lists)
-- ARGV:
--   1 entry_id
--   2 group: of the stream's readers
--   3 claim: the token under which a chord's body is sent, or ''
--   4 chord: the prefix of that chord's keys, or ''
--   5 done_seconds: how long parts that come twice find that the chord is done
--   per message:
--     1 list
--     2 message
-- Returns: 1; 0 where somebody else has done it; -1 where the chord is another's by now
-- Moves: none
-- Tests: tests/lua/test_continue.py
-- The chord's keys are Celery's own (celery/backends/redis.py), as its workers count in them too.
-- @include keys

local entry, group, claim, chord = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if chord ~= '' and redis.call('GET', chord .. '.c') ~= claim then return -1 end
if redis.call('XACK', OUTBOX, group, entry) == 0 then return 0 end
redis.call('XDEL', OUTBOX, entry)
if chord ~= '' then
  redis.call('DEL', chord .. '.j', chord .. '.t', chord .. '.s', chord .. '.d')
  redis.call('SET', chord .. '.c', 'done', 'EX', ARGV[5])
end
for i = 6, #ARGV, 2 do redis.call('LPUSH', ARGV[i], ARGV[i + 1]) end
return 1
