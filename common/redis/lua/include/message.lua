-- Reads fields of a message, without parsing where this project built it.

-- The job's id as Celery reads it: this project's messages begin with it, others are parsed.
-- nil where there is none, or one that would have to be escaped in JSON.
local function id_of(message)
  local id = string.match(message, '^{"headers":{"lang":"py","task":"infer","id":"([^"\\]+)"')
  if id and string.sub(message, -1) == '}' then return id end
  local readable, call = pcall(cjson.decode, message)
  local headers = readable and type(call) == 'table' and call.headers
  id = type(headers) == 'table' and headers.id
  if type(id) == 'string' and string.find(id, '^[^"\\%c]+$') then return id end
end

-- The tenant in a message that this project built; nil where it has none.
local function tenant_of(message)
  return string.match(message, '^{"headers":{"lang":"py","task":"infer","id":"[^"]+",'
    .. '"parent_id":null,"group":null,"root_id":"[^"]+","tenant":"([^"]+)"')
end
