-- hold: a background process holds a session key, goes on holding it, or lets it go. Drops what has ended.
-- Begins with ZREMRANGEBYSCORE, so that one can be let go when Redis is full.
-- KEYS  holds held
-- ARGV  member: '<session key>\n<name> <token>'; ttl_ms ('0' lets it go)
-- Reply 1
redis.call('ZCARD', KEYS[2])  -- where it is of another type, nothing is done
local at_ms = now_ms()
local ended = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', integer(at_ms))
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', integer(at_ms))
for first = 1, #ended, CHUNK do
  redis.call('ZREM', KEYS[2], unpack(ended, first, math.min(first + CHUNK - 1, #ended)))
end
if ARGV[2] == '0' then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
else
  redis.call('ZADD', KEYS[1], integer(at_ms + tonumber(ARGV[2])), ARGV[1])
  redis.call('ZADD', KEYS[2], 0, ARGV[1])
end
-- Others wrote only one of them: a release that knows no other, or a hand.
if redis.call('ZCARD', KEYS[1]) ~= redis.call('ZCARD', KEYS[2]) then
  redis.call('ZUNIONSTORE', KEYS[2], 1, KEYS[1], 'WEIGHTS', 0)
end
return 1
