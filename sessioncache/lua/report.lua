-- report: a process says what it has counted; names whose last report is long ago are forgotten.
-- KEYS  processes report
-- ARGV  name text ttl_ms forget_ms
-- Reply the time of the report
local at_ms = now_ms()
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[1], at_ms, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', integer(at_ms - tonumber(ARGV[4])))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return at_ms
