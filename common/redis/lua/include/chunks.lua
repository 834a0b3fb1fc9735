-- Call with the list's items, so many at a time as the Lua stack holds.

local CHUNK = 1000
local function in_chunks(list, call)
  for first = 1, #list, CHUNK do
    call(unpack(list, first, math.min(first + CHUNK - 1, #list)))
  end
end
