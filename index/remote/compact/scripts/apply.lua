-- Applies one batch of records to segments of one bucket.
--
-- KEYS: life, use, one HASH a segment.
-- ARGV: the life's id, session, number of the call ('0': not numbered), lifetime of a segment in ms ('0': none),
--   highest physical lane in the records, records.
--   records := count of lone records u16 | record *, then of each other segment: count of records u16 | record *
--   record  := op u8 (1 add, 2 remove) | physical lane << 8 | tiers u32 | count u16 | keys
--   A lone record is of as many segments as it has keys, one each. KEYS has segments in the order of the records.
-- Answers 'K added removed missing foreign blocks', or 'L id' where the life is another, 'S number' where batches are missing.
local call, pcall, keys = redis.call, redis.pcall, KEYS
local unpack_number, sub, byte, floor = struct.unpack, string.sub, string.byte, math.floor
local life = call('HMGET', keys[1], 'id', 'blocks', 'seq:' .. ARGV[2], 'lanes')
if life[1] ~= ARGV[1] then return 'L ' .. (life[1] or '') end
local number, had = tonumber(ARGV[3]), tonumber(life[3] or '0')
-- A number that was there before is that call again, whose answer was lost: its records may be applied twice.
if number > 1 and had < number - 1 then return 'S ' .. had end

local now_s = call('TIME')[1]
local lifetime_ms = tonumber(ARGV[4])
local records, at = ARGV[6], 1
local added, removed, missing, foreign = 0, 0, 0, 0
local written = 0 -- fields of the segment at hand that were set
local used, n_used = {}, 0 -- times and segments that go to `use`

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
  local values = pcall('HMGET', key, unpack(fields))
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
  if n_gone > 0 then removed = removed + call('HDEL', key, unpack(gone)) end
  if n_set > 0 then
    added = added + call('HSET', key, unpack(set))
    written = written + n_set / 2
  end
end

-- The same to one key: twice as fast. True where it had no value and has one now. `only`: the element as a value.
local function one(key, op, element, only, field)
  local value = pcall('HGET', key, field)
  if type(value) == 'table' then
    foreign = foreign + 1
    return false
  end
  local new
  if value == only then
    if op == 2 then new = '' end
  elseif value then
    new = changed(value, op, floor(element / 256), element % 256)
  elseif op == 1 then
    new = only
  end
  if new == '' then
    removed = removed + call('HDEL', key, field)
  elseif new then
    written = written + 1
    added = added + call('HSET', key, field, new)
    return not value
  elseif op == 2 then
    missing = missing + 1
  end
  return false
end

local function note_use(key)
  used[n_used + 1], used[n_used + 2] = now_s, sub(key, -8)
  n_used = n_used + 2
  if lifetime_ms > 0 then call('PEXPIRE', key, 2 * lifetime_ms) end
end

-- One key to each of these segments. Of blocks that engines decode most are new, and of prompts that several have in common
-- most are not: what the last key was the next one is taken for, which spares a call where it is new.
local is_new_likely = true
local function lone(op, element, first, last)
  local only = struct.pack('<I4', element)
  -- To ask each segment how many fields it has would cost as much as to write one. So all are asked at once whether they are
  -- there, and what is no first field counts as use where its key's first byte says so: one in eight.
  local are_there = op == 2 or call('EXISTS', unpack(keys, first, last)) == last - first + 1
  for s = first, last do
    local key, field, is_new = keys[s], sub(records, at, at + 7), false
    if op == 1 and is_new_likely and pcall('HSETNX', key, field, only) == 1 then
      added, is_new = added + 1, true
    else
      -- Also after an error: another type is passed over there, and memory that is full is told.
      is_new = one(key, op, element, only, field)
      is_new_likely = op == 2 or is_new
    end
    if is_new and (byte(field) < 32 or not are_there and call('HLEN', key) == 1) then note_use(key) end
    at = at + 8
  end
end

local s, n_lone = 3, 0
n_lone, at = unpack_number('<I2', records, at)
for _ = 1, n_lone do
  local op, element, count
  op, element, count, at = unpack_number('<BI4I2', records, at)
  for first = s, s + count - 1, 128 do lone(op, element, first, math.min(first + 127, s + count - 1)) end
  s = s + count
end
for s = s, #keys do
  local key = keys[s]
  local n_records
  local before = added
  written = 0
  n_records, at = unpack_number('<I2', records, at)
  for _ = 1, n_records do
    local op, element, count
    op, element, count, at = unpack_number('<BI4I2', records, at)
    if count == 1 then
      one(key, op, element, struct.pack('<I4', element), sub(records, at, at + 7))
      at = at + 8
    else
      many(key, op, floor(element / 256), element % 256, count)
    end
  end
  -- For every eight fields or so, and always for the first: it costs more than one does.
  local n, is_used = added - before, written >= 8
  if n > 0 and not is_used then
    local size = call('HLEN', key)
    is_used = floor((size - 1) / 8) > floor((size - 1 - n) / 8)
  end
  if is_used then note_use(key) end
end
for i = 1, n_used, 1000 do call('ZADD', keys[2], unpack(used, i, math.min(i + 999, n_used))) end

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
if foreign > 0 then call('HINCRBY', keys[1], 'foreign', foreign) end
call('HSET', keys[1], unpack(told))
if lifetime_ms > 0 then
  call('PEXPIRE', keys[1], 3 * lifetime_ms)
  call('PEXPIRE', keys[2], 3 * lifetime_ms)
end
return string.format('K %d %d %d %d %d', added, removed, missing, foreign, blocks)
