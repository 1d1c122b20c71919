-- Drops the segments of a bucket that were used longest ago: those beyond their lifetime, and those beyond the bound.
--
-- KEYS: life, use.
-- ARGV: the life's id, lifetime in ms ('0': none), blocks at most ('0': no bound), segments at most in this run, prefix of their keys.
-- Answers 'K' | blocks that are left u32 | blocks that the bound cost u32 | physical lane u32 of who held them *; 'L' where the life is another.
-- The keys of the segments are not in KEYS: they lie in the slot of the two that are.
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then return 'L' end
local lifetime_ms, blocks_max = tonumber(ARGV[2]), tonumber(ARGV[3])
local blocks = tonumber(redis.call('HGET', KEYS[1], 'blocks') or '0')
local oldest_s = tonumber(redis.call('TIME')[1]) - lifetime_ms / 1000
local expired, evicted, segments = 0, 0, 0
local holders, seen = {}, {}
for _ = 1, tonumber(ARGV[4]) do
  local least = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
  if #least == 0 then
    blocks = 0
    break
  end
  local is_old = lifetime_ms > 0 and tonumber(least[2]) < oldest_s
  if not is_old and (blocks_max == 0 or blocks <= blocks_max) then break end
  local key = ARGV[5] .. least[1]
  local values = redis.pcall('HVALS', key)
  if values.err then values = {} end
  if is_old then
    expired = expired + #values
  else
    evicted = evicted + #values
    for _, value in ipairs(values) do
      if not seen[value] and #value % 4 == 0 then
        seen[value] = true
        for at = 1, #value, 4 do holders[math.floor(struct.unpack('<I4', value, at) / 256)] = true end
      end
    end
  end
  redis.call('UNLINK', key)
  redis.call('ZREM', KEYS[2], least[1])
  blocks = math.max(0, blocks - #values)
  segments = segments + 1
end
redis.call('HSET', KEYS[1], 'blocks', blocks)
if segments > 0 then
  redis.call('HINCRBY', KEYS[1], 'expired_blocks', expired)
  redis.call('HINCRBY', KEYS[1], 'evicted_blocks', evicted)
end
if lifetime_ms > 0 then
  redis.call('PEXPIRE', KEYS[1], 3 * lifetime_ms)
  redis.call('PEXPIRE', KEYS[2], 3 * lifetime_ms)
end
local out = { 'K', struct.pack('<I4I4', blocks, evicted) }
for lane in pairs(holders) do out[#out + 1] = struct.pack('<I4', lane) end
return table.concat(out)
