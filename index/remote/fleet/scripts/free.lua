-- The lanes of a session that is over are empty: its numbers go to rest, then they are anybody's.
-- KEYS: over, held lanes, resting lanes, held workers, resting workers
-- ARGV: session, rest ms
-- Returns: how many chunks went to rest
local now = redis.call('TIME')
local free_at = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[2])
local n = 0
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 then return 0 end
for kind = 2, 4, 2 do
  local held = redis.call('HGETALL', KEYS[kind])
  for i = 1, #held, 2 do
    if held[i + 1] == ARGV[1] then
      redis.call('HDEL', KEYS[kind], held[i])
      redis.call('ZADD', KEYS[kind + 1], free_at, held[i])
      n = n + 1
    end
  end
end
redis.call('SREM', KEYS[1], ARGV[1])
return n
