-- Purpose: Put entries of the outbox that workers gave up back into it.
-- KEYS: none by name
-- ARGV:
--   per entry:
--     1 entry_id
-- Returns: how many
-- Moves: none
-- Tests: tests/lua/test_outbox_retry.py
-- @include keys

local moved = 0
for i = 1, #ARGV do
  local entry = redis.call('XRANGE', OUTBOX_FAILED, ARGV[i], ARGV[i])[1]
  if entry then
    local fields, kept = entry[2], {}
    for at = 1, #fields, 2 do
      if fields[at] ~= 'error' then
        kept[#kept + 1] = fields[at]
        kept[#kept + 1] = fields[at + 1]
      end
    end
    redis.call('XADD', OUTBOX, '*', unpack(kept))
    redis.call('XDEL', OUTBOX_FAILED, ARGV[i])
    moved = moved + 1
  end
end
return moved
