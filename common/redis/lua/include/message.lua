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

-- The same of one that is too large to be parsed: kombu writes it near the end.
local function id_at_ends(message)
  local id = string.match(message, '^{"headers":{"lang":"py","task":"infer","id":"([^"\\]+)"')
  return id or string.match(string.sub(message, -8192), '"correlation_id": ?"([^"\\%c]+)"')
end

-- The tenant in a message that this project built; nil where it has none.
local function tenant_of(message)
  return string.match(message, '^{"headers":{"lang":"py","task":"infer","id":"[^"]+",'
    .. '"parent_id":null,"group":null,"root_id":"[^"]+","tenant":"([^"]+)"')
end

-- Who is told of its end, as JSON, where this project built it; nil for nobody.
local function webhook_of(message)
  local headers = string.match(message, '^({"headers":.-),"content%-type":')
  return headers and string.match(headers, ',"webhook":("[^"\\]+")')
end

-- The labels in a message that this project built, as the index has them; nil where it has none.
local function labels_in(message)
  local headers = string.match(message, '^({"headers":.-),"content%-type":')
  local stamps = headers and string.match(headers, ',"stamped_headers":%[[^%]]+%],"stamps":(%b{})')
  local found = {}
  for name, value in string.gmatch(stamps or '', '"([^"\\]+)":"([^"\\]+)"') do
    found[#found + 1] = name .. '=' .. value
  end
  table.sort(found)
  return found[1] and table.concat(found, ',')
end

-- The call that it carries, as it came; nil where there is none.
local function body_of(message)
  local readable, call = pcall(cjson.decode, message)
  return readable and type(call) == 'table' and call.body or nil
end

-- Of one without an id that could be a job's: under which id its sender waits, nil where it does
-- not say, and why it is refused.
local function refusal_of(message)
  local readable, call = pcall(cjson.decode, message)
  if not readable then
    return id_at_ends(message), 'not a Celery message, or one with half a surrogate pair (\\ud800)'
  end
  call = type(call) == 'table' and call or {}
  local headers, properties = call.headers, call.properties
  local id = type(headers) == 'table' and headers.id
  if type(id) == 'string' and id ~= '' then
    return id, 'a task id with quotation marks, backslashes or control characters is refused'
  end
  id = type(properties) == 'table' and properties.correlation_id
  if type(id) == 'string' and id ~= '' then
    return id, 'its headers have no id: task protocol 1 is refused; set task_protocol = 2'
  end
  return nil, 'not a Celery message'
end
