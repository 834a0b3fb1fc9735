-- Whether two messages with one id bring one call: then the second is a copy, and is dropped.
-- With another call it is a job of its own, as in Celery, which runs once the first has ended.
-- @include keys, message

local WAIT_MS = 1000 -- until it is looked at again whether the first has ended

local function is_other_call(message, other)
  return body_of(message) ~= body_of(other)
end

-- Whether a kept result is known to be another call's. Workers note the digest of those that no
-- front has published, at the very end.
local function result_is_of_other_call(id, message)
  local last = redis.call('GETRANGE', META .. id, -64, -1)
  local digest = string.match(last, '"call":"(%x+)"}}$')
  return digest ~= nil and digest ~= redis.sha1hex(body_of(message) or '')
end

-- Let it wait behind the one that has its id now.
local function let_wait(delayed, band, message, now)
  redis.call('ZADD', delayed, now + WAIT_MS, band .. ':' .. message)
end
