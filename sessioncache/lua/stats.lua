-- stats: the backlog of a partition.
-- KEYS  dirty dead
-- ARGV  limit: how many dirty session keys to name
-- Reply {number of dirty keys, of dead letters, now, since when the first key is due (both in milliseconds), session key, …}
local at_ms = integer(now_ms())
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local since = first[2] and integer(tonumber(first[2])) or at_ms
local dead = redis.pcall('LLEN', KEYS[2])  -- of a key that is no list: none; it is told of elsewhere
local reply = {redis.call('ZCARD', KEYS[1]), type(dead) == 'number' and dead or 0, at_ms, since}
for _, key in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1)) do reply[#reply + 1] = key end
return reply
