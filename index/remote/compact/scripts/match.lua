-- What segments of one bucket hold of keys, as runs of keys with equal values.
--
-- KEYS: life, one HASH a segment.
-- ARGV: questions, a segment: count of keys u16 | keys.
-- Answers: length u8 of the life's id | id | runs; a run: count of keys u16 | length of the value u32 | value.
--   No value: nobody holds them. '?': the segment is no HASH.
local sub, pack = string.sub, struct.pack
local questions, at = ARGV[1], 1
local id = redis.call('HGET', KEYS[1], 'id') or ''
local out, n_out = { pack('<B', #id), id }, 2

-- The values of the next `count` keys; nil where the segment is no HASH.
local function held(key, count)
  local fields = {}
  for i = 1, count do
    fields[i] = sub(questions, at, at + 7)
    at = at + 8
  end
  -- A small HASH is a list: to read all of it is faster than to look for many of its fields.
  local size = redis.pcall('HLEN', key)
  if type(size) == 'table' then return nil end
  if size == 0 then return {} end
  if count < 24 or size > 512 then return redis.call('HMGET', key, unpack(fields)) end
  local all = redis.call('HGETALL', key)
  local value_of, values = {}, {}
  for i = 1, #all, 2 do value_of[all[i]] = all[i + 1] end
  for i = 1, count do values[i] = value_of[fields[i]] end
  return values
end

for s = 2, #KEYS do
  local count
  count, at = struct.unpack('<I2', questions, at)
  local values = held(KEYS[s], count)
  local last, run = nil, 0
  for i = 1, count do
    local value = values and (values[i] or '') or '?'
    if value == last then
      run = run + 1
    else
      if run > 0 then
        out[n_out + 1], out[n_out + 2] = pack('<I2I4', run, #last), last
        n_out = n_out + 2
      end
      last, run = value, 1
    end
  end
  if run > 0 then
    out[n_out + 1], out[n_out + 2] = pack('<I2I4', run, #last), last
    n_out = n_out + 2
  end
end
return table.concat(out)
