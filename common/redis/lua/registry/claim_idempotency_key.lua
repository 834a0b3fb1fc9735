-- Purpose: Claim an idempotency key for a job, or read the existing claim.
-- KEYS: the claim
-- ARGV:
--   1 claim: fingerprint and job id
--   2 ttl_seconds
-- Returns: the claim that the key has now
-- Moves: none
-- Tests: tests/lua/test_claim_idempotency_key.py

local claim = KEYS[1]
local held = redis.call('GET', claim)
if held then return held end
redis.call('SET', claim, ARGV[1], 'EX', ARGV[2])
return ARGV[1]
