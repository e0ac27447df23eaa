-- relocate: dead letters and holds go from one partition to another. Begins with LREM or ZREM, so that it runs when Redis is full.
-- Once, however often it is repeated: what is not there any more is not put there again. Not for a Redis Cluster, where the
-- keys of two partitions may be on two servers.
-- KEYS  dead, holds and held of the one, dead, holds and held of the other, the key of the right to do this
-- ARGV  token, number of letters, letters, members of holds
-- Reply how many went | -1: another process has the right, or none
if value(KEYS[7]) ~= ARGV[1] then return -1 end
redis.call('LLEN', KEYS[4])
redis.call('ZCARD', KEYS[5])
redis.call('ZCARD', KEYS[6])
local letters, went = tonumber(ARGV[2]), 0
for i = 3, letters + 2 do
  if redis.call('LREM', KEYS[1], 1, ARGV[i]) == 1 then
    redis.call('RPUSH', KEYS[4], ARGV[i])
    went = went + 1
  end
end
for i = letters + 3, #ARGV do
  local ends = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if ends then
    redis.call('ZREM', KEYS[2], ARGV[i])
    redis.call('ZREM', KEYS[3], ARGV[i])
    redis.call('ZADD', KEYS[5], ends, ARGV[i])
    redis.call('ZADD', KEYS[6], 0, ARGV[i])
    went = went + 1
  end
end
return went
