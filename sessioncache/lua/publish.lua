-- publish: installs what was loaded from the store as the hot copy, if the lease is still ours and the log is empty.
-- KEYS  meta history pending lease
-- ARGV  token ttl_ms number of fields, pairs: field of meta, value; then the elements of history, oldest first
-- Reply 'ok' | 'lost': the lease is not ours any more | 'dirty': ops came in; drain and load again
local run = run_id()
if value(KEYS[4]) ~= run .. ':' .. ARGV[1] then return 'lost' end
if redis.call('LLEN', KEYS[3]) > 0 then return 'dirty' end
redis.call('DEL', KEYS[4], KEYS[1], KEYS[2])
local elements, bytes = {}, 0
local first = 4 + 2 * tonumber(ARGV[3])
for i = first, #ARGV do
  elements[i - first + 1] = ARGV[i]
  bytes = bytes + #ARGV[i]
end
push(KEYS[2], elements)
redis.call('HSET', KEYS[1], 'run', run, 'count', #elements, 'bytes', integer(bytes))
for i = 4, first - 1, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
slide(KEYS[1], KEYS[2], ARGV[2])
return 'ok'
