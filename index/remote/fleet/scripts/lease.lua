-- Lend a session one more chunk of numbers: one that has rested, or one that was never lent.
-- KEYS: sessions, held, resting, next chunk
-- ARGV: session, token, chunks there are
-- Returns: the chunk; -1: the session is over; -2: none is left
redis.call('HDEL', KEYS[2], '')
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return -1 end
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local chunk = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now_ms), 'LIMIT', 0, 1)[1]
if chunk then
  redis.call('ZREM', KEYS[3], chunk)
else
  chunk = tonumber(redis.call('GET', KEYS[4]) or '0')
  if chunk >= tonumber(ARGV[3]) then return -2 end
  redis.call('INCR', KEYS[4])
end
redis.call('HSET', KEYS[2], chunk, ARGV[1])
return tonumber(chunk)
