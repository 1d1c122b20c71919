-- Gives lanes a physical one where they have none, and hands out further numbers. None is ever used again.
--
-- KEYS: meta, lanes, version, sessions.
-- ARGV: id, session ('0': none), count of further numbers, lane u32 *
-- Answers 'K' | first further number u32 | physical lane u32 for each lane; 'L' where the id is another, 'O' where the session is over,
--   'F' where the numbers are used up.
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then return 'L' end
if ARGV[2] ~= '0' and redis.call('HEXISTS', KEYS[4], ARGV[2]) == 0 then return 'O' end
local function numbers(count)
  local last = redis.call('HINCRBY', KEYS[1], 'lanes', count)
  if last >= 16777216 or last < count then
    redis.call('HINCRBY', KEYS[1], 'lanes', -count)
    return nil
  end
  return last - count + 1
end
local out, is_changed = { 'K', '' }, false
for at = 1, #ARGV[4], 4 do
  local lane = tostring(struct.unpack('<I4', ARGV[4], at))
  local held = redis.call('HGET', KEYS[2], lane)
  local phys = held and #held == 5 and struct.unpack('<I4', held) or 0
  if phys < 1 or phys >= 16777216 then
    local number = numbers(1)
    if not number then return 'F' end
    held = struct.pack('<I4B', number, 0)
    redis.call('HSET', KEYS[2], lane, held)
    is_changed = true
  end
  out[#out + 1] = string.sub(held, 1, 4)
end
if is_changed then redis.call('INCR', KEYS[3]) end
local first = 0
if ARGV[3] ~= '0' then
  first = numbers(tonumber(ARGV[3]))
  if not first then return 'F' end
end
out[2] = struct.pack('<I4', first)
return table.concat(out)
