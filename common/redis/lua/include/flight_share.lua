-- Settles the followers of a leader that ended.
-- @include keys, chunks, clock, record, result_document, single_flight, copy_bound

-- The argument of settle for a follower whose deadline has passed.
local function expired_follower(id, rec, listed, now)
  local text = 'the deadline passed before the identical job that it waited for was done'
  redis.call('HINCRBY', LANE .. rec.lane .. ':stats', 'expired', 1)
  return {
    id = id, lane = rec.lane, tenant = rec.tenant,
    meta = ending(id, rec, 'expired', 'deadline', text, now),
    record = listed and settled_text(rec) or nil,
  }
end

local function forget_followers(followers)
  local lanes, keys = {}, {}
  for _, one in ipairs(followers) do
    local ids = lanes[one.rec.lane] or {}
    lanes[one.rec.lane] = ids
    ids[#ids + 1] = one.id
    keys[#keys + 1] = FOLLOWERS .. one.id
  end
  for lane, ids in pairs(lanes) do
    in_chunks(ids, function(...) redis.call('ZREM', follower_index(lane), ...) end)
  end
  -- Followers rarely have followers themselves, so one EXISTS checks all of them.
  local leaders = 0
  in_chunks(keys, function(...) leaders = leaders + redis.call('EXISTS', ...) end)
  return leaders > 0
end

local SHARED_BYTES, EACH_BYTES = 6 * 1024 * 1024, 4096 -- what one costs besides its result

-- As many followers as results of this size may be written for, and the others.
local function part_followers(followers, parts)
  local each = #parts.head + #parts.middle + #parts.rest + EACH_BYTES
  local room = math.max(math.floor((SHARED_BYTES - copied_bytes) / each), 1)
  if #followers <= room then
    copied_bytes = copied_bytes + #followers * each
    return followers, {}
  end
  copied_bytes = copied_bytes + room * each
  local near, rest = {}, {}
  for i, one in ipairs(followers) do
    if i <= room then near[i] = one else rest[#rest + 1] = one end
  end
  return near, rest
end

-- Append the followers' results to the list of settle; `parts` is the leader's result. Returns
-- those that are too many for one call.
local function share(jobs, all, leader_started, parts, outcome)
  local followers, rest = part_followers(all, parts)
  local now, counts, leads = now_ms(), {}, forget_followers(followers)
  for _, one in ipairs(followers) do
    local id, rec, job = one.id, one.rec, nil
    local began_late = rec.deadline > 0 and rec.deadline <= now and leader_started > rec.deadline
    if (one.deadline > 0 and one.deadline <= now) or began_late then
      job = expired_follower(id, rec, one.message == '', now)
    else
      job = {
        id = id, lane = rec.lane, tenant = rec.tenant, outcome = outcome,
        meta = result_for(parts, id, rec.created, rec.tenant),
        record = one.message == '' and settled_text(rec) or nil,
      }
      counts[rec.lane] = (counts[rec.lane] or 0) + 1
    end
    job.leads = leads
    jobs[#jobs + 1] = job
  end
  for lane, count in pairs(counts) do
    -- Not counted as succeeded or failed: rates are measured by jobs that ran in a worker.
    redis.call('HINCRBY', LANE .. lane .. ':stats', 'shared', count)
  end
  return rest
end
