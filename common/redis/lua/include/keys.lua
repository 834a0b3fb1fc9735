-- The keys that scripts build themselves; common/redis/keys.py has the complete table.
-- KEYS of a lane, always in this order:
--   1-4 bands (0, 3, 6, 9)  5 unacked  6 index  7 delayed  8 dead  9 letters  10 stats

local JOB, META, BLOB, LANE = 'lf:job:', 'celery-task-meta-', 'lf:blob:', 'lf:lane:'
local IN_FLIGHT, RATE, JOBS, LABELS = 'lf:tenants:in_flight', 'lf:rate:', 'lf:jobs:', 'lf:labels:'
local FLIGHT, FOLLOWERS = 'lf:flight:', 'lf:followers:'
local NEXT, OUTBOX, OUTBOX_FAILED = 'lf:next:', 'lf:outbox', 'lf:outbox:failed'
local EVENTS, SAID = 'lf:outbox:events', 'lf:said:' -- the second is a channel too, with SCOPE
local CANCELED, STARVED = 'lf:canceled', 'lf:hurry' -- channels; each goes with SCOPE
local SCOPE = '' -- ':<database>' but in 0; scripts.py writes it
local BAND_SUFFIX = { '', '\6\0223', '\6\0226', '\6\0229' }
