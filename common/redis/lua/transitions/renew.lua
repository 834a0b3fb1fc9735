-- Extend N leases that are still ours.
-- KEYS: the lane's. ARGV: lease_ms, tags ...
-- Returns the tags whose lease is gone.

local due = (now_ms() + ARGV[1]) / 1000
local lost, scores = {}, {}
for i = 2, #ARGV do
  if redis.call('HEXISTS', KEYS[5], ARGV[i]) == 1 then
    scores[#scores + 1] = due
    scores[#scores + 1] = ARGV[i]
  else
    lost[#lost + 1] = ARGV[i]
  end
end
for first = 1, #scores, 1000 do
  redis.call('ZADD', KEYS[6], unpack(scores, first, math.min(first + 999, #scores)))
end
return lost
