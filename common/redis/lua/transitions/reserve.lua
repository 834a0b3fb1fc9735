-- Purpose: Lease up to N waiting jobs of one lane to one worker.
-- KEYS: the lane's
-- ARGV:
--   1 lane
--   2 wanted
--   3 lease_ms
--   4 tag_prefix: unique to this call
--   5 worker
--   6 result_ttl
--   7 dead_max_count
--   8 max_deliveries
--   9 low_share: how many of them come from the lower bands, where these have any
--   10 first_low_band: which of those begins, 0-2
--   11 window: how many messages a tenant has in a band's list
--   12 most_bytes: of messages, and one message more
--   13 largest: bytes of a message; a larger one is parked, and its sender told
-- Returns: {left waiting, server time in ms, then per job: tag, attempt, created_ms[:tenant],
--   message}
-- Moves: q->r, none->r, r->r, w->r, q->settled, x->settled, w->q, w->w, none->settled, settled->r
-- Tests: tests/lua/test_reserve.py
-- Set aside on the way: settled jobs, duplicates of a live lease, jobs past their
-- deadline, what is no job or too large (parked). One whose id another has now waits for it.
-- @include keys, clock, chunks, message, record, lane_depth, band_shares, delayed, leasing
-- @rarely not_startable, same_call, unreadable

local bands, unacked, index, delayed = KEYS, KEYS[5], KEYS[6], KEYS[7]
local parked = { dead = KEYS[8], letters = KEYS[9], stats = KEYS[10] }
local lane, wanted, prefix, worker = ARGV[1], tonumber(ARGV[2]), ARGV[4], ARGV[5]
local keep, share, turn = tonumber(ARGV[7]), tonumber(ARGV[9]), tonumber(ARGV[10])
local window, most, largest = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])

-- Numbers used in many commands are converted to text once: Redis formats them slowly.
local now = now_ms()
local stamp = string.format('%d', now)
local due = string.format('%.3f', (now + ARGV[3]) / 1000)
local fresh = '^q ' .. string.gsub(lane, '%W', '%%%0') .. ' (%d+):?(%S*)$'
local leased, leased_by = 'r ' .. lane .. ' ', ' ' .. stamp .. ' ' .. worker .. ' '
local call = {
  lane = lane, worker = worker, now = now, ttl = ARGV[6], keep = keep, parked = parked,
  max_deliveries = tonumber(ARGV[8]), delayed = delayed,
}
local out = { 0, now }

local function take_other(band, message, id, text)
  if #message > largest then
    refuse_large(call, message, id, text, band, next_tag(prefix, band), largest)
  elseif not id then
    refuse(call, message, band, next_tag(prefix, band))
  else
    local rec = meet_again(call, id, message, text, band)
    if not rec then return end
    rec.state, rec.lane, rec.tag = 'r', lane, next_tag(prefix, band)
    rec.started, rec.worker = stamp, worker
    -- A suspect's attempt is counted when it starts, alone (start.lua).
    local born = origin(rec.created, rec.tenant)
    lease(out, id, message, rec.tag, rec.attempts + 1, born, record_text(rec), lane)
  end
end

-- Returns the number of messages per tenant.
local function take(band, messages)
  local ids, keys, texts, tenants = {}, {}, {}, {}
  for i, message in ipairs(messages) do
    ids[i] = (#message > largest and id_at_ends or id_of)(message) or false
    keys[i] = JOB .. (ids[i] or '')
  end
  in_chunks(keys, function(...)
    for _, text in ipairs(redis.call('MGET', ...)) do texts[#texts + 1] = text end
  end)
  for i, message in ipairs(messages) do
    local id, text = ids[i], texts[i]
    local created, tenant
    if text then created, tenant = string.match(text, fresh) end
    if text and not created then tenant = string.match(text, '^%l %S+ %d+:(%S+)') end
    if tenant and tenant ~= '' then tenants[tenant] = (tenants[tenant] or 0) + 1 end
    local leased_message = id and leased_now[id]
    if created and not leased_message and #message <= largest then
      local tag, born = next_tag(prefix, band), origin(created, tenant)
      lease(out, id, message, tag, 1, born, leased .. born .. ' 0 0 0 ' .. tag .. leased_by, lane)
    elseif not leased_message then
      take_other(band, message, id, text)
    elseif is_other_call(message, leased_message) then -- else it was sent twice, and both are here
      let_wait(delayed, band, message, now)
    end
  end
  return tenants
end

-- 1 delayed jobs that are due
make_all_due(bands, delayed, lane, now, wanted, most / 2)

-- 2 bands, and the lists beside them
local beside = over_total(lane)
serve_bands(bands, lane, beside, wanted, share, turn, window, take, most)

-- 3 write
write_leases(unacked, index, due)
out[1] = beside > 0 and over_total(lane) or 0
for band = 1, 4 do out[1] = out[1] + redis.call('LLEN', bands[band]) end
return out
