-- Applies one batch of records to segments of one bucket.
--
-- KEYS: life, use, one HASH a segment.
-- ARGV: the life's id, session, number of the call ('0': not numbered), lifetime of a segment in ms ('0': none),
--   highest physical lane in the records, records.
--   records, a segment: count of records u16, then op u8 (1 add, 2 remove) | physical lane << 8 | tiers u32 | count u16 | keys, each.
-- Answers 'K added removed missing foreign blocks', or 'L id' where the life is another, 'S number' where batches are missing.
local unpack_number, sub, floor = struct.unpack, string.sub, math.floor
local life = redis.call('HMGET', KEYS[1], 'id', 'blocks', 'seq:' .. ARGV[2], 'lanes')
if life[1] ~= ARGV[1] then return 'L ' .. (life[1] or '') end
local number, had = tonumber(ARGV[3]), tonumber(life[3] or '0')
-- A number that was there before is that call again, whose answer was lost: its records may be applied twice.
if number > 1 and had < number - 1 then return 'S ' .. had end

local now_s = redis.call('TIME')[1]
local lifetime_ms = tonumber(ARGV[4])
local records, at = ARGV[6], 1
local added, removed, missing, foreign = 0, 0, 0, 0
local written = 0 -- fields of the segment at hand that were set

-- `value` with `tiers` added to or taken from a lane: nil where nothing changes. Elements ascend by lane.
local function changed(value, op, lane, tiers)
  local n = #value
  if n % 4 ~= 0 then
    foreign = foreign + 1
    n, value = 0, ''
  end
  local low, high = 0, n / 4
  if high > 0 and floor(unpack_number('<I4', value, n - 3) / 256) < lane then low = high end
  while low < high do
    local middle = floor((low + high) / 2)
    if floor(unpack_number('<I4', value, 4 * middle + 1) / 256) < lane then low = middle + 1 else high = middle end
  end
  local here = 4 * low
  local held = here < n and unpack_number('<I4', value, here + 1) or 0
  local behind = here
  if held > 0 and floor(held / 256) == lane then held, behind = held % 256, here + 4 else held = 0 end
  local left
  if op == 1 then left = bit.bor(held, tiers) else left = bit.band(held, bit.bnot(tiers)) end
  if left == held then return nil end
  local middle = left == 0 and '' or struct.pack('<I4', lane * 256 + left)
  return sub(value, 1, here) .. middle .. sub(value, behind + 1)
end

-- The same to many keys of a segment: few of their values differ.
local function many(key, op, lane, tiers, count)
  local fields = {}
  for i = 1, count do
    fields[i] = sub(records, at, at + 7)
    at = at + 8
  end
  local values = redis.pcall('HMGET', key, unpack(fields))
  if values.err then
    foreign = foreign + count
    return
  end
  local first = op == 1 and struct.pack('<I4', lane * 256 + tiers)
  local memo, set, n_set, gone, n_gone = {}, {}, 0, {}, 0
  for i = 1, count do
    local value = values[i]
    local new = first
    if value then
      new = memo[value]
      if new == nil then
        new = changed(value, op, lane, tiers) or false
        memo[value] = new
      end
    end
    if new == '' then
      n_gone = n_gone + 1
      gone[n_gone] = fields[i]
    elseif new then
      set[n_set + 1], set[n_set + 2] = fields[i], new
      n_set = n_set + 2
    elseif op == 2 then
      missing = missing + 1
    end
  end
  -- Removals first: memory that is full does not keep them out, nor what follows them.
  if n_gone > 0 then removed = removed + redis.call('HDEL', key, unpack(gone)) end
  if n_set > 0 then
    added = added + redis.call('HSET', key, unpack(set))
    written = written + n_set / 2
  end
end

-- The same to one key: twice as fast.
local function one(key, op, lane, tiers, field)
  local value = redis.pcall('HGET', key, field)
  if value and type(value) == 'table' then
    foreign = foreign + 1
    return
  end
  local new
  if value then
    new = changed(value, op, lane, tiers)
  elseif op == 1 then
    new = struct.pack('<I4', lane * 256 + tiers)
  end
  if new == '' then
    removed = removed + redis.call('HDEL', key, field)
  elseif new then
    added = added + redis.call('HSET', key, field, new)
    written = written + 1
  elseif op == 2 then
    missing = missing + 1
  end
end

for s = 3, #KEYS do
  local key = KEYS[s]
  local n_records
  local before = added
  written = 0
  n_records, at = unpack_number('<I2', records, at)
  for _ = 1, n_records do
    local op, element, count
    op, element, count, at = unpack_number('<BI4I2', records, at)
    local lane, tiers = floor(element / 256), element % 256
    if count == 1 then
      one(key, op, lane, tiers, sub(records, at, at + 7))
      at = at + 8
    else
      many(key, op, lane, tiers, count)
    end
  end
  -- For every eight fields or so, and always for the first: it costs more than one does.
  local n, is_used = added - before, written >= 8
  if n > 0 and not is_used then
    local size = redis.call('HLEN', key)
    is_used = floor((size - 1) / 8) > floor((size - 1 - n) / 8)
  end
  if is_used then
    redis.call('ZADD', KEYS[2], now_s, sub(key, -8))
    if lifetime_ms > 0 then redis.call('PEXPIRE', key, 2 * lifetime_ms) end
  end
end

local blocks = math.max(0, tonumber(life[2] or '0') + added - removed)
local told = { 'blocks', blocks }
if number > 0 then
  told[3], told[4] = 'seq:' .. ARGV[2], number
end
-- So that no number is used again where the count of them is lost and this is not.
if tonumber(ARGV[5]) > tonumber(life[4] or '0') then
  told[#told + 1] = 'lanes'
  told[#told + 1] = ARGV[5]
end
if foreign > 0 then redis.call('HINCRBY', KEYS[1], 'foreign', foreign) end
redis.call('HSET', KEYS[1], unpack(told))
if lifetime_ms > 0 then
  redis.call('PEXPIRE', KEYS[1], 3 * lifetime_ms)
  redis.call('PEXPIRE', KEYS[2], 3 * lifetime_ms)
end
return string.format('K %d %d %d %d %d', added, removed, missing, foreign, blocks)
