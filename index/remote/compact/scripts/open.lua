-- Makes the index where there is none; where there is one, no number of a lane that buckets have seen is given again.
--
-- KEYS: meta.  ARGV: format, number of buckets, id, highest physical lane that buckets have seen.
-- Answers {format, number of buckets, id}, of whoever made it.
if redis.call('HSETNX', KEYS[1], 'id', ARGV[3]) == 1 then
  redis.call('HSET', KEYS[1], 'format', ARGV[1], 'buckets', ARGV[2], 'lanes', ARGV[4])
elseif (tonumber(redis.call('HGET', KEYS[1], 'lanes') or '0') or 0) < tonumber(ARGV[4]) then
  -- Its node has lost its last writes, and those of the buckets have not.
  redis.call('HSET', KEYS[1], 'lanes', ARGV[4])
end
return redis.call('HMGET', KEYS[1], 'format', 'buckets', 'id')
