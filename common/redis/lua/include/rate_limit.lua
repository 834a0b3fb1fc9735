-- A tenant's limits: a rate with a burst, and a maximum of jobs in flight.
-- A bucket is stored as the time at which it will be full again; until then it lacks the tokens
-- that it gains until that time.
-- @include keys

local function bucket(name, per_second, burst, clock)
  if per_second <= 0 then return math.huge, 0 end
  local full_at = tonumber(redis.call('GET', RATE .. name)) or 0
  local gap = 1000 / per_second
  return math.floor(burst - math.max(full_at - clock, 0) / gap + 1e-6), gap
end

local function read_one(name, per_second, burst, max_in_flight, clock)
  local tokens, gap = bucket(name, tonumber(per_second), tonumber(burst), clock)
  local most, room = tonumber(max_in_flight), math.huge
  if most > 0 then room = most - (tonumber(redis.call('HGET', IN_FLIGHT, name)) or 0) end
  return { name = name, tokens = tokens, gap = gap, room = room, taken = 0 }
end

-- By name, from groups of four arguments: name, jobs_per_second, burst, max_in_flight.
local function read_limits(words, from, to, clock)
  local tenants = {}
  for at = from, to - 1, 4 do
    local name, per_second, burst, max_in_flight = unpack(words, at, at + 3)
    tenants[name] = read_one(name, per_second, burst, max_in_flight, clock)
  end
  return tenants
end

-- The code of the limit that refuses this job, nil where it is accepted.
local function refusal(tenant)
  if tenant.tokens < 1 then return -2 end
  if tenant.room < 1 then return -3 end
  tenant.tokens, tenant.room, tenant.taken = tenant.tokens - 1, tenant.room - 1, tenant.taken + 1
end

-- How many jobs it may send now, or -1, and ms until it may send its whole burst.
local function write_one(tenant, clock)
  if tenant.gap == 0 then return -1, 0 end
  local key = RATE .. tenant.name
  local full_at = math.max(tonumber(redis.call('GET', key)) or 0, clock)
    + tenant.taken * tenant.gap
  local left = math.ceil(full_at - clock)
  if tenant.taken > 0 then
    redis.call('SET', key, string.format('%.3f', full_at), 'PX', math.max(left, 1))
  end
  return math.max(tenant.tokens, 0), left
end

-- Appends both to the reply, for each of the tenants in these arguments.
local function write_limits(tenants, words, from, to, clock, out)
  for at = from, to - 1, 4 do
    out[#out + 1], out[#out + 2] = write_one(tenants[words[at]], clock)
  end
end
