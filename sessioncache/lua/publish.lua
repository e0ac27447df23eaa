-- publish: installs what was loaded from the store as the hot copy, if the lease is still ours and the log is empty.
-- KEYS  meta history pending lease
-- ARGV  token ttl_ms session_id ('' for none) version revision total owner created_ms updated_ms accessed_ms ops
--       then the elements of history, oldest first
-- Reply 'ok' | 'lost': the lease is not ours any more | 'dirty': ops came in; drain and load again
local run = run_id()
if redis.call('GET', KEYS[4]) ~= run .. ':' .. ARGV[1] then return 'lost' end
if redis.call('LLEN', KEYS[3]) > 0 then return 'dirty' end
redis.call('DEL', KEYS[4], KEYS[1], KEYS[2])
local elements, bytes = {}, 0
for i = 12, #ARGV do
  elements[i - 11] = ARGV[i]
  bytes = bytes + #ARGV[i]
end
push(KEYS[2], elements)
redis.call('HSET', KEYS[1], 'run', run, 'count', #elements, 'bytes', integer(bytes), 'session_id', ARGV[3], 'version', ARGV[4],
  'revision', ARGV[5], 'total', ARGV[6], 'owner', ARGV[7], 'created_ms', ARGV[8], 'updated_ms', ARGV[9],
  'accessed_ms', ARGV[10], 'touched_ms', ARGV[10], 'ops', ARGV[11])
slide(KEYS[1], KEYS[2], ARGV[2])
return 'ok'
