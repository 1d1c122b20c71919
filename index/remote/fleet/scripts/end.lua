-- End a session: one's own, or one whose lease ran out. Its numbers stay held until its lanes are empty (free.lua).
-- KEYS: sessions, leases, parts, version, over
-- ARGV: session, token ('' for: only if its lease ran out)
-- Returns: 1 when it is over now or was before, 0 when it lives
redis.call('HDEL', KEYS[3], '')
local token = redis.call('HGET', KEYS[1], ARGV[1])
if not token then return 1 end
if ARGV[2] == '' then
  local now = redis.call('TIME')
  local until_ms = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or '0')
  if until_ms > now[1] * 1000 + math.floor(now[2] / 1000) then return 0 end
elseif token ~= ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('SADD', KEYS[5], ARGV[1])
redis.call('INCR', KEYS[4])
return 1
