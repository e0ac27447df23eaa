-- claim: takes due session keys of a partition for a while, by moving their due time into the future.
-- Begins with ZREM or DEL, so that it runs when Redis is full.
-- KEYS  dirty wake
-- ARGV  limit visibility_ms wake_ms mode: 'due'  only what is due; keeps the doorbell pressed
--                                        'last' the same, but lets the doorbell go where nothing is due
-- Reply {session key, …}
local limit, visibility_ms, mode = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[4]
local at_ms = now_ms()
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', integer(at_ms), 'LIMIT', 0, limit)
if #found < limit then
  -- A due time beyond any visibility was set before the clock stepped back.
  local beyond = '(' .. integer(at_ms + visibility_ms)
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], beyond, '+inf', 'LIMIT', 0, limit - #found)) do
    found[#found + 1] = key
  end
end
for _, key in ipairs(found) do
  redis.call('ZREM', KEYS[1], key)
  redis.call('ZADD', KEYS[1], integer(at_ms + visibility_ms), key)
end
if mode == 'last' and #found == 0 then
  redis.call('DEL', KEYS[2])
elseif redis.call('PEXPIRE', KEYS[2], ARGV[3]) == 0 then
  -- A full Redis may refuse this: then the next append rings once more than it need.
  redis.pcall('SET', KEYS[2], '1', 'PX', ARGV[3])
end
return found
