-- Times in the headers of Celery messages: ISO 8601, as clients write them.

-- Days since 1970, with years that begin in March (iso_date.lua has the inverse).
local function days_until(year, month, day)
  if month <= 2 then year, month = year - 1, month + 12 end
  return 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
    + math.floor((153 * (month - 3) + 2) / 5) + day - 719469
end

-- Unix milliseconds; nil where it is no such time. Without an offset it is UTC.
local function iso_ms(text)
  local year, month, day, hour, minute, second, rest =
    string.match(text or '', '^(%d%d%d%d)-(%d%d)-(%d%d)[T ](%d%d):(%d%d):(%d%d)(.*)$')
  if not year then return nil end
  local fraction, zone = string.match(rest, '^(%.?%d*)(.*)$')
  local sign, hours, minutes = string.match(zone, '^([+-])(%d%d):?(%d%d)$')
  local offset = sign and (hours * 60 + minutes) * (sign == '-' and -1 or 1) or 0
  local days = days_until(tonumber(year), tonumber(month), tonumber(day))
  local seconds = ((days * 24 + hour) * 60 + minute - offset) * 60 + second
  return math.floor((seconds + (tonumber(fraction) or 0)) * 1000)
end

-- The time in this header of a message, outside of its body, where quotation marks are escaped.
local function header_ms(message, name)
  return iso_ms(string.match(message, '"' .. name .. '": ?"([^"\\]+)"'))
end
