-- Tells that segments of a bucket are in use.
--
-- KEYS: life, use, one HASH a segment.  ARGV: lifetime of a segment in ms ('0': none).
-- Answers how many of them are there.
local now_s, lifetime_ms, n = redis.call('TIME')[1], tonumber(ARGV[1]), 0
for s = 3, #KEYS do
  if redis.call('EXISTS', KEYS[s]) == 1 then
    redis.call('ZADD', KEYS[2], 'XX', now_s, string.sub(KEYS[s], -8))
    if lifetime_ms > 0 then redis.call('PEXPIRE', KEYS[s], 2 * lifetime_ms) end
    n = n + 1
  end
end
return n
