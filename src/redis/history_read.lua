local key, after, count, room, largest = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local parts, taken, more, from = {}, 0, 0, after
local function message(entry)
  local data
  for i = 1, #entry[2], 2 do if entry[2][i] == 'd' then data = entry[2][i + 1] end end
  return data
end
local function take(entry)
  local data, size = message(entry), -1
  if data and #data <= largest then size = #data else data = '' end
  local cost = #data + 64
  if taken > 0 and cost > room then return false end
  room = room - cost
  taken = taken + 1
  parts[taken] = entry[1] .. ' ' .. size .. '\n' .. data
  return true
end
while more == 0 do
  local chunk = math.min(count - taken, 10)
  if chunk <= 0 then more = 1 break end
  local found
  if after ~= '' then
    found = redis.call('XRANGE', key, '(' .. from, '+', 'COUNT', chunk)
  elseif from ~= '' then
    found = redis.call('XREVRANGE', key, '(' .. from, '-', 'COUNT', chunk)
  else
    found = redis.call('XREVRANGE', key, '+', '-', 'COUNT', chunk)
  end
  for _, entry in ipairs(found) do
    if not take(entry) then more = 1 break end
    from = entry[1]
  end
  if #found < chunk then break end
end
if after == '' then
  for i = 1, math.floor(taken / 2) do parts[i], parts[taken + 1 - i] = parts[taken + 1 - i], parts[i] end
end
local first, last = redis.call('XRANGE', key, '-', '+', 'COUNT', 1), redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)
local edge = after ~= '' and last[1] or first[1]
if not edge or edge[1] == from then more = 0 end
local older = after ~= '' and redis.call('XREVRANGE', key, after, '-', 'COUNT', 1)[1]
local added, uptime, digest = '-', '-', '-'
if older then
  if ARGV[5] == '1' then digest = redis.sha1hex(message(older) or '') end
elseif after ~= '' then
  local stream, server = redis.pcall('XINFO', 'STREAM', key), redis.pcall('INFO', 'server')
  if stream.err and first[1] then added = 0 end
  for i = 1, #stream, 2 do if stream[i] == 'entries-added' then added = stream[i + 1] end end
  uptime = type(server) == 'string' and string.match(server, 'uptime_in_seconds:(%d+)') or '-'
end
local time = redis.pcall('TIME')
local now = time.err and '-' or string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local head = now .. ' ' .. uptime .. ' ' .. more .. ' ' .. redis.call('XLEN', key) .. ' ' .. added
  .. ' ' .. (first[1] and first[1][1] or '-') .. ' ' .. (last[1] and last[1][1] or '-') .. ' ' .. digest
  .. ' ' .. (older and older[1] == after and 1 or 0) .. '\n'
return head .. table.concat(parts)
