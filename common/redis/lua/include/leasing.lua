-- The leases of one reservation: collected job by job, written together at its end.
-- Last tag first: a short zset is a list that is searched from its beginning, and all have the
-- same score, so in this order each insert is at the front (15 us a lease otherwise).
-- @include keys, chunks, lease

local lease_serial, leased_now = 0, {} -- leased_now: id -> message
local lease_records, lease_bodies, lease_tags = {}, {}, {}

local function next_tag(prefix, band)
  lease_serial = lease_serial + 1
  return tag_of(prefix, lease_serial, band)
end

-- Append to the reply: tag, attempt, when the job was accepted and its tenant, message.
local function lease(out, id, message, tag, attempt, born, record, lane)
  leased_now[id] = message
  lease_records[#lease_records + 1] = JOB .. id
  lease_records[#lease_records + 1] = record
  lease_bodies[#lease_bodies + 1] = tag
  lease_bodies[#lease_bodies + 1] = wrap(message, lane)
  lease_tags[#lease_tags + 1] = tag
  local at = #out
  out[at + 1] = tag
  out[at + 2] = attempt
  out[at + 3] = born
  out[at + 4] = message
end

-- due: seconds as text, as kombu stores them.
local function write_leases(unacked, index, due)
  local scores = {}
  for i = #lease_tags, 1, -1 do
    scores[#scores + 1] = due
    scores[#scores + 1] = lease_tags[i]
  end
  in_chunks(lease_records, function(...) redis.call('MSET', ...) end)
  in_chunks(lease_bodies, function(...) redis.call('HSET', unacked, ...) end)
  in_chunks(scores, function(...) redis.call('ZADD', index, ...) end)
end
