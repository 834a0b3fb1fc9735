-- Others than us may have taken from the bands, a stock consumer or `celery purge`; so what
-- was counted is counted again, as far as that is quick, and nobody's jobs are left beside.
-- @include keys, message, tenant_window, tenant_refill, tenant_counts

local RECOUNT = 1000 -- longest list that is read through

local function recount(list, lane, band, window)
  local depth, counted, placed = redis.call('LLEN', list), 0, {}
  for _, count in ipairs(redis.call('HVALS', placed_key(lane, band))) do
    counted = counted + count
  end
  local beside = waiting_beside(lane, band)
  if depth > RECOUNT or (depth == counted and (depth > 0 or #beside == 0)) then return end
  for _, message in ipairs(redis.call('LRANGE', list, 0, -1)) do
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

-- Jobs that somebody else took were never settled by us: the tenants' counts add up to more
-- than the lane holds. Whose they were nobody knows, so all shrink alike; an empty lane has none.
local function recount_in_flight(lane, backlog)
  local counts, sum = redis.call('HGETALL', LANE .. lane .. ':tenants'), 0
  for i = 2, #counts, 2 do sum = sum + counts[i] end
  if sum <= backlog then return end
  for i = 1, #counts, 2 do
    count_out(lane, counts[i], counts[i + 1] - math.floor(counts[i + 1] * backlog / sum))
  end
end
