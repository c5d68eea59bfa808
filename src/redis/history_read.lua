local key, after, count, room, largest = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local parts, taken, more, from = {}, 0, 0, after
local function take(entry)
  local data
  for i = 1, #entry[2], 2 do if entry[2][i] == 'd' then data = entry[2][i + 1] end end
  local size = -1
  if data and #data <= largest then size = #data else data = '' end
  if taken > 0 and #data > room then return false end
  room = room - #data
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
if edge and edge[1] == from then more = 0 end
local has = after ~= '' and #redis.call('XRANGE', key, after, after) > 0
local head = (has and '1' or '0') .. ' ' .. more .. ' ' .. redis.call('XLEN', key)
  .. ' ' .. (first[1] and first[1][1] or '-') .. ' ' .. (last[1] and last[1][1] or '-') .. '\n'
return head .. table.concat(parts)
