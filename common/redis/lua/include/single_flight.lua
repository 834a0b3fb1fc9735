-- Concurrent jobs with the same input share one run: the first one, the leader, waits in the
-- lane; the others follow it and get its result.
--
--   lf:flight:<lane>:<digest>   '<band> <deadline_ms> <leader>', or '!<id>' of one that
--                               has just succeeded; a hint that may name a deleted job
--   lf:followers:<leader>       '' -> '<band> <deadline_ms> <flight>' of the leader, and per
--                               follower: id -> '<band> <deadline_ms> <message>', where the
--                               message is empty while it still waits in its lane
--   lf:lane:<lane>:followers    zset: follower -> ms after which it expires, or inf
--
-- A follower's record is w, and its tag is the leader's id. One that was overtaken by a job of
-- a higher band follows that one, and may have followers itself.
-- @include keys, record

local HINT_SECONDS = 3600

local function follower_index(lane)
  return LANE .. lane .. ':followers'
end

-- Parse a flight or a follower's field: band, deadline, and the rest; nil where it is empty.
local function read_entry(value)
  if not value then return nil end
  local band, deadline, rest = string.match(value, '^(%d) (%d+) (.*)$')
  return tonumber(band), tonumber(deadline), rest
end

local function follower_text(rec, leader)
  local word = origin(rec.created, rec.tenant)
  return 'w ' .. rec.lane .. ' ' .. word .. ' ' .. rec.deadline .. ' 0 0 ' .. leader
end

-- Whether jobs may follow it: it is neither settled nor lost. A foreign Celery worker that ran it
-- leaves its record behind, so its result is checked too.
local function is_under_way(rec, id)
  return rec and rec.state ~= 'x' and redis.call('EXISTS', META .. id) == 0
end
