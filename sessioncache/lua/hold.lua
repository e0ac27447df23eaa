-- hold: a background process holds a session key, goes on holding it, or lets it go. Drops what has ended.
-- KEYS  holds
-- ARGV  member: '<session key>\n<name> <token>'; ttl_ms ('0' lets it go)
-- Reply 1
local at_ms = now_ms()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', integer(at_ms))
if ARGV[2] == '0' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], integer(at_ms + tonumber(ARGV[2])), ARGV[1])
end
return 1
