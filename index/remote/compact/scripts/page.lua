-- Some whole segments of a bucket.
--
-- KEYS: life, use.  ARGV: cursor, about how many segments, prefix of their keys.
-- Answers {cursor, '0' at the end; page}: page := (tag u32 | count u32 | (length u32 | field | length u32 | value) *) *
-- The keys of the segments are not in KEYS: they lie in the slot of the two that are.
local found = redis.call('ZSCAN', KEYS[2], ARGV[1], 'COUNT', ARGV[2])
local out = {}
for i = 1, #found[2], 2 do
  local tag = found[2][i]
  local all = redis.pcall('HGETALL', ARGV[3] .. tag)
  local number = tonumber(tag, 16)
  if not all.err and #all > 0 and number then
    out[#out + 1] = struct.pack('<I4I4', number, #all / 2)
    for j = 1, #all do
      out[#out + 1] = struct.pack('<I4', #all[j])
      out[#out + 1] = all[j]
    end
  end
end
return { found[1], table.concat(out) }
