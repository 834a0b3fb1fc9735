-- Purpose: What is said of dead letters, without their messages; writes nothing.
-- KEYS: the lane's
-- ARGV:
--   per letter:
--     1 letter_id
-- Returns: per letter its first line, JSON, or '' where it is gone; the last are missing where they
--   are too large for one call
-- Moves: none
-- Tests: tests/lua/test_dead_letters.py
-- @include copy_bound

local letters, out = KEYS[9], {}
for i = 1, #ARGV do
  if has_copied_most() then break end
  local letter = redis.call('HGET', letters, ARGV[i]) or ''
  copied_bytes = copied_bytes + #letter
  out[i] = string.match(letter, '^[^\n]*')
end
return out
