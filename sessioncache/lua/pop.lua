-- pop: removes the newest message of the current session.
-- KEYS  as every change
-- ARGV  as every change
-- Reply {'miss'} | {'moved', current session id, last deleted session id} | {'conflict', version} | {'lost'} | {'full', bound, what waits}
--       {'forgotten'}: a repeat, and what it removed is not known any more | {'ok', ring} where there is no message
--       {'ok', ring, element}
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
if known(row[OPS], ARGV[9]) then
  local answer = answered(ARGV[9])
  return answer and {'ok', 0, answer} or {'forgotten'}
end
local refusal = barred(row, 1)
if refusal then return refusal end
if row[TOTAL] == '0' then return {'ok', 0} end
local element = redis.call('LINDEX', KEYS[2], -1)
if not element then
  -- All that was hot has been removed; the newest message is in the store.
  redis.call('DEL', KEYS[1])
  return {'miss'}
end
local at_ms = now_ms()
local message_id = string.match(element, '^%d+ %d+ ([^\n]+)\n')
if not message_id then return broken() end
local _, ring = log_op(row, 'remove', ARGV[6], message_id, at_ms)
redis.call('RPOP', KEYS[2])
redis.call('HSET', KEYS[1], 'revision', ARGV[9], 'count', tonumber(row[COUNT]) - 1, 'total', integer(tonumber(row[TOTAL]) - 1),
  'bytes', integer(tonumber(row[BYTES]) - #element), ANSWER, ARGV[9] .. '\n' .. element)
accessed(at_ms)
return {'ok', ring, element}
