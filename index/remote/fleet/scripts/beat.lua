-- A session is alive: its lease begins anew, and its part is told where it has changed.
-- KEYS: sessions, leases, beat, parts, version, held lanes, held workers
-- ARGV: session, token, lease ms, part ('' for: as before), lane chunks that it holds, worker chunks that it holds
-- Returns: 0 when the session is over; else {version, sessions whose lease ran out ...}
-- The first command writes: so that what follows is carried out while memory is full, too.
redis.call('HDEL', KEYS[4], '')
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
for i = 6, 7 do
  for chunk in string.gmatch(ARGV[i - 1], '%d+') do
    if redis.call('HGET', KEYS[i], chunk) ~= ARGV[1] then return 0 end
  end
end
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local lease_ms = tonumber(ARGV[3])
local last_ms = tonumber(redis.call('GET', KEYS[3]) or '0')
if now_ms - last_ms > lease_ms then  -- nobody was heard for a whole lease: the server was away, not they
  for _, session in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    redis.call('ZADD', KEYS[2], string.format('%.0f', now_ms + lease_ms), session)
  end
end
redis.call('SET', KEYS[3], string.format('%.0f', now_ms))
redis.call('ZADD', KEYS[2], string.format('%.0f', now_ms + lease_ms), ARGV[1])
if ARGV[4] ~= '' and redis.call('HGET', KEYS[4], ARGV[1]) ~= ARGV[4] then
  redis.call('HSET', KEYS[4], ARGV[1], ARGV[4])
  redis.call('INCR', KEYS[5])
end
local answer = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now_ms), 'LIMIT', 0, 16)
table.insert(answer, 1, redis.call('GET', KEYS[5]) or '0')
return answer
