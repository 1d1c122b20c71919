-- Takes dead physical lanes out of some segments of a bucket, and forgets segments that are gone.
--
-- KEYS: life, use.  ARGV: the life's id, cursor, about how many segments, prefix of their keys, dead physical lane u32 *
-- Answers {cursor, '0' at the end; values that changed; segments that were gone}, or 'L' where the life is another.
-- The keys of the segments are not in KEYS: they lie in the slot of the two that are.
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then return 'L' end
local dead = {}
for at = 1, #ARGV[5], 4 do dead[struct.unpack('<I4', ARGV[5], at)] = true end

-- Elements that ascend, of lanes that live. Others than ours are left out: a reader would take the whole value for foreign.
local function scrubbed(value)
  local left, elements, last = {}, {}, 0
  if #value % 4 ~= 0 then return '' end
  for at = 1, #value, 4 do elements[#elements + 1] = struct.unpack('<I4', value, at) end
  table.sort(elements)
  for _, element in ipairs(elements) do
    local lane, tiers = math.floor(element / 256), element % 256
    if not dead[lane] and lane > last and tiers > 0 and tiers < 64 then
      left[#left + 1] = struct.pack('<I4', element)
      last = lane
    end
  end
  return table.concat(left)
end

local found = redis.call('ZSCAN', KEYS[2], ARGV[2], 'COUNT', ARGV[3])
local n_changed, n_removed, n_vanished = 0, 0, 0
for i = 1, #found[2], 2 do
  local key = ARGV[4] .. found[2][i]
  local all = redis.pcall('HGETALL', key)
  if all.err then all = {} end
  local memo, is_left = {}, false
  for j = 1, #all, 2 do
    local value = all[j + 1]
    local new = memo[value] or scrubbed(value)
    memo[value] = new
    if new == '' then
      n_removed = n_removed + redis.call('HDEL', key, all[j])
    else
      is_left = true
      if new ~= value then
        redis.call('HSET', key, all[j], new)
        n_changed = n_changed + 1
      end
    end
  end
  if not is_left then
    redis.call('ZREM', KEYS[2], found[2][i])
    if #all == 0 then n_vanished = n_vanished + 1 end
  end
end
if n_removed > 0 then redis.call('HINCRBY', KEYS[1], 'blocks', -n_removed) end
if n_vanished > 0 then redis.call('HINCRBY', KEYS[1], 'vanished_segments', n_vanished) end
return { found[1], n_changed + n_removed, n_vanished }
