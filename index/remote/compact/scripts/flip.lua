-- Gives lanes other physical ones, all at once. What the old ones hold is nobody's from now on.
--
-- KEYS: meta, lanes, version, sessions, dead.
-- ARGV: id, session ('0': none), change *
--   change := lane u32 | physical lane u32 (0: none, 2^32-1: as it is) | the one it must have now u32 (2^32-1: any, 0: none)
--             | flags u8 (1 closed, 2 lossy) | which of them to set u8
-- Answers 'K' | physical lane u32 for each change, as it is now; 'L' where the id is another, 'O' where the session is over.
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then return 'L' end
if ARGV[2] ~= '0' and redis.call('HEXISTS', KEYS[4], ARGV[2]) == 0 then return 'O' end
local ANY = 4294967295
local out, is_changed = { 'K' }, false
for at = 1, #ARGV[3], 14 do
  local lane, new, expected, flags, which = struct.unpack('<I4I4I4BB', ARGV[3], at)
  local held = redis.call('HGET', KEYS[2], lane)
  local old, had = 0, 0
  if held and #held == 5 then old, had = struct.unpack('<I4B', held) end
  local is_kept = new == ANY or new == old
  if not is_kept and expected ~= ANY and expected ~= old then
    -- Somebody has changed the lane meanwhile: his word counts.
    if new > 0 then redis.call('SADD', KEYS[5], new) end
    new = old
  elseif is_kept then
    new = old
    flags = bit.bor(bit.band(flags, which), bit.band(had, bit.bnot(which)))
    if old > 0 and flags ~= had then redis.call('HSET', KEYS[2], lane, struct.pack('<I4B', old, flags)) end
  else
    if old > 0 then redis.call('SADD', KEYS[5], old) end
    if new > 0 then
      redis.call('HSET', KEYS[2], lane, struct.pack('<I4B', new, bit.band(flags, which)))
    else
      redis.call('HDEL', KEYS[2], lane)
    end
    is_changed = true
  end
  out[#out + 1] = struct.pack('<I4', new)
end
if is_changed then redis.call('INCR', KEYS[3]) end
return table.concat(out)
