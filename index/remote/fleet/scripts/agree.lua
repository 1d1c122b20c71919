-- What all who share this index must have in common; the first to come says it.
-- KEYS: common
-- ARGV: format version, algorithm, seed of ours ('' where it is not to be kept here), fingerprint of algorithm and seed ('' for: read only)
-- Returns: {format version, algorithm, seed, fingerprint}; empty strings where nobody has said
if ARGV[4] ~= '' and redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'format', ARGV[1], 'algorithm', ARGV[2], 'seed', ARGV[3], 'fingerprint', ARGV[4])
end
local said = redis.call('HMGET', KEYS[1], 'format', 'algorithm', 'seed', 'fingerprint')
for i = 1, 4 do said[i] = said[i] or '' end
return said
