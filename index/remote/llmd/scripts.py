"""The scripts that a server runs for us: many keys a call, and bounded where a key is not what it should be.

Each is given block keys in decimal as KEYS. In a cluster a call has one key, since each has a slot of
its own. All are repeatable: doing one twice leaves what doing it once does.
"""

from __future__ import annotations

HELD = """
local fields_max, total_max, bytes_max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local wrong, oversized, total = 0, 0, 0
local numbers, sets, runs = {}, {}, {}
local number, last, at = 0, -1, 0

local function number_of(fields, size)
  local before = sets[number]
  if before and #before == size then
    local same = true
    for i = 1, size do
      if fields[i] ~= before[i] then same = false break end
    end
    if same then return number end
  end
  local content = table.concat(fields, '\\n')
  if #content > size * bytes_max then
    oversized = oversized + 1
    return 0
  end
  if not numbers[content] then
    sets[#sets + 1] = fields
    numbers[content] = #sets
    total = total + size
  end
  return numbers[content]
end

for i = 1, #KEYS do
  local size = redis.pcall('HLEN', KEYS[i])
  if size == 0 then
    number = 0
  elseif type(size) == 'table' then
    wrong, number = wrong + 1, 0
  elseif size > fields_max or total > total_max then
    oversized, number = oversized + 1, 0
  else
    number = number_of(redis.call('HKEYS', KEYS[i]), size)
  end
  if number == last then
    runs[at] = runs[at] + 1
  else
    runs[at + 1], runs[at + 2] = number, 1
    last, at = number, at + 2
  end
end
return {wrong, oversized, runs, sets}
"""
"""Who holds the keys. ARGV: fields of a key at most, of all different ones, bytes of a field on average.

Answers keys of a wrong type, keys with too much, (set, length) runs over the keys, the sets of fields;
set 0 is nobody. Neighbours that hold the same are told once.
"""

CHANGE = """
local command, values = ARGV[1], {}
for i = 2, #ARGV do
  values[#values + 1] = ARGV[i]
  if command == 'HSET' then values[#values + 1] = '' end
end
local wrong = 0
for i = 1, #KEYS do
  local done = redis.pcall(command, KEYS[i], unpack(values))
  if type(done) == 'table' and done.err then
    if not string.find(done.err, 'WRONGTYPE', 1, true) then return done end
    wrong = wrong + 1
  end
end
return wrong
"""
"""ARGV: HSET or HDEL, then the fields that each key gets or loses. Answers how many keys are of a wrong type.

These stay as they are. A hash without fields is gone, so there is nothing to prune. One script for both: what
a server lacks the script for is asked again after all else, and what is said of a lane must keep its order.
"""

PRUNE_ENGINE_KEY = """
for i = 2, #KEYS do
  local size = redis.pcall('HLEN', KEYS[i])
  if type(size) == 'number' and size > 0 then return 0 end
end
return redis.call('DEL', KEYS[1])
"""
"""Forget an engine key (KEYS[1]) when nobody holds any of its blocks (the others)."""
