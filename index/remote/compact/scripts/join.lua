-- Begins the life of a bucket where it has none: who finds another than before knows that content was lost.
--
-- KEYS: life.  ARGV: an id.
-- Answers the id.
redis.call('HSETNX', KEYS[1], 'id', ARGV[1])
return redis.call('HGET', KEYS[1], 'id')
