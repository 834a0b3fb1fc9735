-- The dead list of a lane: messages that will not run again, bounded by count.
-- @include keys, message

-- Store a message: one line of JSON about it, then its bytes. keys: dead, letters, stats.
local function bury(keys, letter, message, keep)
  letter.tenant = tenant_of(message)
  redis.call('HSET', keys.letters, letter.id, cjson.encode(letter) .. '\n' .. message)
  redis.call('ZADD', keys.dead, letter.died_ms, letter.id)
  local excess = redis.call('ZCARD', keys.dead) - keep
  if excess > 0 then
    local oldest = redis.call('ZPOPMIN', keys.dead, excess)
    for i = 1, #oldest, 2 do
      redis.call('HDEL', keys.letters, oldest[i])
      redis.call('DEL', BLOB .. oldest[i])
    end
  end
  redis.call('HINCRBY', keys.stats, 'dead', 1)
end
