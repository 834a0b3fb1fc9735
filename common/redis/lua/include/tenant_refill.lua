-- Moves tenants' jobs from the lists beside the bands into the bands (tenant_window.lua puts them
-- there).
-- @include tenant_window, copy_bound

-- Move the tenant's next messages into the band, up to its window, until enough is copied: who is
-- left out is moved by the reaper, or taken from beside an empty band.
local function refill(list, lane, band, tenant, placed, window)
  local key, moved = over_key(lane, band, tenant), 0
  while placed + moved < window and not has_copied_most() do
    local message = redis.call('LMOVE', key, list, 'RIGHT', 'LEFT')
    if not message then break end
    copied_bytes, moved = copied_bytes + #message, moved + 1
  end
  if moved == 0 then return end
  count_over(lane, band, tenant, -moved)
  count_placed(lane, band, tenant, moved)
end
