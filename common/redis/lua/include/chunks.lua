-- Call with the list's items, in chunks that fit on the Lua stack.

local CHUNK = 1000
local function in_chunks(list, call)
  for first = 1, #list, CHUNK do
    call(unpack(list, first, math.min(first + CHUNK - 1, #list)))
  end
end
