-- What readers are told: all parts where the version is another one, and whose lease ran out.
-- KEYS: sessions, leases, parts, version, common
-- ARGV: the version that is known ('' for: none)
-- Returns: {version, lost sessions}, and where something changed: sessions, {session, part ...}, fingerprint of what all key with
local version = redis.call('GET', KEYS[4]) or '0'
local now = redis.call('TIME')
local now_ms = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
local lost = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now_ms)
if version == ARGV[1] then return {version, lost} end
local keyed_by = redis.call('HGET', KEYS[5], 'fingerprint') or ''
return {version, lost, redis.call('HKEYS', KEYS[1]), redis.call('HGETALL', KEYS[3]), keyed_by}
