-- Begin a session. Numbers come from the clock's milliseconds on, so that a server that forgot everything issues none twice.
-- KEYS: next, sessions, leases, beat, version
-- ARGV: token, lease ms
-- Returns: session number
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('HDEL', KEYS[2], '')  -- writes first: what follows is carried out while memory is full, too
redis.call('SET', KEYS[1], string.format('%.0f', now_ms), 'NX')
local session = redis.call('INCR', KEYS[1])
redis.call('HSET', KEYS[2], session, ARGV[1])
redis.call('ZADD', KEYS[3], string.format('%.0f', now_ms + ARGV[2]), session)
redis.call('SET', KEYS[4], string.format('%.0f', now_ms))
redis.call('SET', KEYS[5], string.format('%.0f', now[1] * 1000000 + now[2]), 'NX')  -- no version of before a flush
redis.call('INCR', KEYS[5])
return session
