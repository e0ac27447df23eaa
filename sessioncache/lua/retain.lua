-- retain: of the messages seen so far a run stays, from one message to another; what came after those seen stays too.
-- KEYS  as every change
-- ARGV  as every change, then the revision and the consolidated seq that were seen; the seq of the first message that stays,
--       of the last one, and of the last one seen; how many of those seen go; payload (opaque, for the store)
-- Reply {'miss'} | {'moved', current session id, last deleted session id} | {'conflict', version} | {'lost'} | {'full', bound, what waits}
--       {'changed'}: another revision, or less is consolidated | {'ok', ring, messages left}
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
if known(row[OPS], ARGV[9]) then return {'ok', 0, answered(ARGV[9]) or row[TOTAL]} end
local refusal = barred(row, 1)
if refusal then return refusal end
local consolidated = counter('consolidated_seq')
if not consolidated then return broken() end
if row[REVISION] ~= ARGV[11] or consolidated < tonumber(ARGV[12]) then return {'changed'} end
local first, last, seen = tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15])
local total, count, bytes = integer(tonumber(row[TOTAL]) - tonumber(ARGV[16])), tonumber(row[COUNT]), tonumber(row[BYTES])
local at_ms = now_ms()
local _, ring = log_op(row, 'retain', ARGV[6], ARGV[17], at_ms)
if last < seen then
  -- Messages in the middle of the list go; the next read brings back what stays.
  redis.call('DEL', KEYS[1], KEYS[2])
  return {'ok', ring, total}
end
while count > 0 do
  local oldest = redis.call('LINDEX', KEYS[2], 0)
  local seq = tonumber(string.match(oldest, '^%d+'))
  if not seq then
    redis.call('DEL', KEYS[1], KEYS[2])
    return {'ok', ring, total}
  end
  if seq >= first then break end
  redis.call('LPOP', KEYS[2])
  count, bytes = count - 1, bytes - #oldest
end
redis.call('HSET', KEYS[1], 'revision', ARGV[9], 'count', count, 'total', total, 'bytes', integer(bytes),
  ANSWER, ARGV[9] .. '\n' .. total)
accessed(at_ms)
return {'ok', ring, total}
