-- Claim an idempotency key for a job, or learn who holds it.
-- KEYS: the claim. ARGV: its value (fingerprint and job id), seconds to keep it
-- Returns the value that holds the key.

local held = redis.call('GET', KEYS[1])
if held then return held end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return ARGV[1]
