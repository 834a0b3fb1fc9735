-- What the bytes of a message say, read without parsing where it is our own.

-- The job's id as Celery reads it: our own messages begin with it, others are parsed.
-- nil where there is none, or one that could not be written into JSON as it is.
local function id_of(message)
  local id = string.match(message, '^{"headers":{"lang":"py","task":"infer","id":"([^"\\]+)"')
  if id and string.sub(message, -1) == '}' then return id end
  local readable, call = pcall(cjson.decode, message)
  local headers = readable and type(call) == 'table' and call.headers
  id = type(headers) == 'table' and headers.id
  if type(id) == 'string' and string.find(id, '^[^"\\%c]+$') then return id end
end

-- Whose job a message of ours is, nil where it is nobody's.
local function tenant_of(message)
  return string.match(message, '^{"headers":{"lang":"py","task":"infer","id":"[^"]+",'
    .. '"parent_id":null,"group":null,"root_id":"[^"]+","tenant":"([^"]+)"')
end
