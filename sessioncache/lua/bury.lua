-- bury: moves what is no op from a pending log to the dead letters. Begins with LREM, so that it runs when Redis is full.
-- KEYS  pending dirty dead meta history backlog oldest
-- ARGV  session_key, the element
-- Reply 1: it was there | 0
-- Where these are of other types, nothing is removed.
redis.call('LLEN', KEYS[3])
redis.call('HLEN', KEYS[6])
redis.call('ZCARD', KEYS[7])
if redis.call('LREM', KEYS[1], 1, ARGV[2]) == 0 then return 0 end
redis.call('RPUSH', KEYS[3], integer(now_ms()) .. ' corrupt ' .. ARGV[1] .. '\n' .. ARGV[2])
if redis.call('LLEN', KEYS[1]) == 0 then redis.call('ZREM', KEYS[2], ARGV[1]) end
waits_no_more(KEYS[6], KEYS[7], KEYS[1], ARGV[1], 1, #ARGV[2])
nothing_waits(KEYS[2], KEYS[6], KEYS[7])
redis.call('DEL', KEYS[4], KEYS[5])
return 1
