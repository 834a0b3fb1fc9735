-- The followers of a leader, all at once.
-- @include keys, chunks, record, single_flight, copy_bound

-- From the reply to HGETALL: the followers whose record agrees; and the leader's own entry.
local function read_followers(leader, fields)
  local found, own, keys = {}, nil, {}
  for i = 1, #fields, 2 do
    if fields[i] == '' then
      own = fields[i + 1]
    else
      local band, deadline, message = read_entry(fields[i + 1])
      found[#found + 1] = {
        id = fields[i], band = band, deadline = deadline, message = message, value = fields[i + 1],
      }
      keys[#keys + 1] = JOB .. fields[i]
      copied_bytes = copied_bytes + #fields[i + 1]
    end
  end
  local texts, known = {}, {}
  in_chunks(keys, function(...)
    for _, text in ipairs(redis.call('MGET', ...)) do texts[#texts + 1] = text end
  end)
  for i, one in ipairs(found) do
    one.rec = parse_record(texts[i] or '')
    if one.rec and one.rec.state == 'w' and one.rec.tag == leader then known[#known + 1] = one end
  end
  return known, own
end

local function move_followers(followers, leader, except)
  local entries, records = {}, {}
  for _, one in ipairs(followers) do
    if one ~= except then
      entries[#entries + 1] = one.id
      entries[#entries + 1] = one.value
      records[#records + 1] = JOB .. one.id
      records[#records + 1] = follower_text(one.rec, leader)
    end
  end
  in_chunks(entries, function(...) redis.call('HSET', FOLLOWERS .. leader, ...) end)
  in_chunks(records, function(...) redis.call('MSET', ...) end)
end
