-- What one reservation leases: gathered job by job, written at its end, in one go.
-- Last tag first: a short zset is a list that is searched from its beginning, and all
-- have one score, so in this order each finds its place at once (15 us a lease otherwise).
-- @include keys, chunks, lease

local serial, leased_now = 0, {} -- leased_now: ids
local records, stored, tags = {}, {}, {}

local function next_tag(prefix, band)
  serial = serial + 1
  return tag_of(prefix, serial, band)
end

-- Append to the answer: tag, attempt, when accepted and by whom, message.
local function lease(out, id, message, tag, attempt, born, record, lane)
  leased_now[id] = true
  records[#records + 1] = JOB .. id
  records[#records + 1] = record
  stored[#stored + 1] = tag
  stored[#stored + 1] = wrap(message, lane)
  tags[#tags + 1] = tag
  local at = #out
  out[at + 1] = tag
  out[at + 2] = attempt
  out[at + 3] = born
  out[at + 4] = message
end

-- due: seconds, as kombu keeps them, as text.
local function write_leases(unacked, index, due)
  local scores = {}
  for i = #tags, 1, -1 do
    scores[#scores + 1] = due
    scores[#scores + 1] = tags[i]
  end
  in_chunks(records, function(...) redis.call('MSET', ...) end)
  in_chunks(stored, function(...) redis.call('HSET', unacked, ...) end)
  in_chunks(scores, function(...) redis.call('ZADD', index, ...) end)
end
