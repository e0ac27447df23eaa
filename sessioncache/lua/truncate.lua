-- truncate: keeps the first messages of the current session; or clears it, which also drops its summary.
-- KEYS  as every change
-- ARGV  as every change, then kind ('truncate' or 'clear') and how many messages stay
-- Reply {'miss'} | {'moved', current session id, last deleted session id} | {'conflict', version} | {'lost'} | {'full', bound, what waits}
--       {'ok', ring, messages left}
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
if known(row[OPS], ARGV[9]) then return {'ok', 0, answered(ARGV[9]) or row[TOTAL]} end
local refusal = barred(row, 1)
if refusal then return refusal end
local kind, left, total, count = ARGV[11], tonumber(ARGV[12]), tonumber(row[TOTAL]), tonumber(row[COUNT])
if kind == 'truncate' and left >= total then return {'ok', 0, row[TOTAL]} end
local at_ms = now_ms()
local _, ring = log_op(row, kind, ARGV[6], ARGV[12], at_ms)
local stay = left - (total - count)
if stay <= 0 and left > 0 then
  -- What is left lies below the hot window.
  redis.call('DEL', KEYS[1], KEYS[2])
  return {'ok', ring, integer(left)}
end
stay = math.max(0, stay)
local bytes = tonumber(row[BYTES])
for first = stay, count - 1, CHUNK do
  for _, element in ipairs(redis.call('LRANGE', KEYS[2], first, first + CHUNK - 1)) do bytes = bytes - #element end
end
if stay == 0 then redis.call('DEL', KEYS[2]) else redis.call('LTRIM', KEYS[2], 0, stay - 1) end
redis.call('HSET', KEYS[1], 'revision', ARGV[9], 'count', stay, 'total', integer(left), 'bytes', integer(bytes),
  ANSWER, ARGV[9] .. '\n' .. integer(left))
if kind == 'clear' then
  redis.call('HSET', KEYS[1], 'consolidated_seq', 0)
  redis.call('HDEL', KEYS[1], 'm:summary')
end
accessed(at_ms)
return {'ok', ring, integer(left)}
