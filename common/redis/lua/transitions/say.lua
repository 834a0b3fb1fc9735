-- Purpose: Write what N leased jobs have said since to their streams, and tell who listens.
-- KEYS: the lane's
-- ARGV:
--   per job:
--     1 tag
--     2 job_id
--     3 number: the entry's, from 1; one that is there already is not written again
--     4 ttl_seconds: of the stream
--     5 said: JSON
-- Returns: the numbers (from 0) of the jobs that were fenced
-- Moves: none
-- Tests: tests/lua/test_say.py
-- @include keys

local unacked, fenced = KEYS[5], {}

for i = 1, #ARGV, 5 do
  local id, number, said = ARGV[i + 1], ARGV[i + 2], ARGV[i + 4]
  if redis.call('HEXISTS', unacked, ARGV[i]) == 0 then
    fenced[#fenced + 1] = (i - 1) / 5
  else
    local stream = SAID .. id
    -- Refused where the entry is there: of a call whose answer was lost.
    local added = redis.pcall('XADD', stream, number .. '-0', 'd', said)
    if type(added) == 'table' and not string.find(added.err, 'equal or smaller', 1, true) then
      return added
    end
    redis.call('EXPIRE', stream, ARGV[i + 3])
    redis.pcall('PUBLISH', SAID .. id .. SCOPE, number .. ' ' .. said)
  end
end
return fenced
