-- Other consumers may have taken messages from the bands, a stock one or `celery purge`; so the
-- counts are corrected, as far as that is quick, and no tenant's jobs are left beside a band.
-- @include keys, message, tenant_window, tenant_beside, tenant_refill, tenant_counts, copy_bound

local RECOUNT = 1000 -- longest list that is read through

-- Whose messages are beside the band and who has none in it: their reservation copied enough
-- without them.
local function refill_left_out(list, lane, band, beside, window)
  for _, tenant in ipairs(beside) do
    if redis.call('HEXISTS', placed_key(lane, band), tenant) == 0 then
      refill(list, lane, band, tenant, 0, window)
    end
  end
end

local function recount(list, lane, band, window)
  local depth, counted, placed = redis.call('LLEN', list), 0, {}
  for _, count in ipairs(redis.call('HVALS', placed_key(lane, band))) do
    counted = counted + count
  end
  local beside = waiting_beside(lane, band)
  local right = depth > RECOUNT or (depth == counted and (depth > 0 or #beside == 0))
  local messages = right and {} or peek_bounded(list, depth, 0)
  if right or #messages < depth then
    refill_left_out(list, lane, band, beside, window)
    return
  end
  for _, message in ipairs(messages) do
    local tenant = tenant_of(message)
    if tenant then placed[tenant] = (placed[tenant] or 0) + 1 end
  end
  redis.call('DEL', placed_key(lane, band))
  for tenant, count in pairs(placed) do
    redis.call('HSET', placed_key(lane, band), tenant, count)
  end
  for _, tenant in ipairs(beside) do
    refill(list, lane, band, tenant, placed[tenant] or 0, window)
  end
end

-- Jobs taken by other consumers are never settled by these scripts: the tenants' counts add up to
-- more than the lane holds. Their tenants are unknown, so all counts shrink in proportion; those
-- of an empty lane become 0.
local function recount_in_flight(lane, backlog)
  local counts, sum = redis.call('HGETALL', LANE .. lane .. ':tenants'), 0
  for i = 2, #counts, 2 do sum = sum + counts[i] end
  if sum <= backlog then return end
  for i = 1, #counts, 2 do
    count_out(lane, counts[i], counts[i + 1] - math.floor(counts[i + 1] * backlog / sum))
  end
end
