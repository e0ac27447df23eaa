-- delete: a session of a key, current or not. Where it was current, a hot copy without a session stays for a while.
-- However much waits: it is what makes room.
-- KEYS  as every change
-- ARGV  as every change (expected_version, turn and hold_ms count only if it is current), then unknown_ms, and '1' if it must
--       be current
-- Reply {'miss'} | {'moved', current session id, last deleted session id} | {'conflict', version} | {'lost'} | {'busy'}
--       {'ok', ring, '1' if it was current}
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
if known(row[OPS], ARGV[9]) then return {'ok', 0, answered(ARGV[9]) or '1'} end
local current = row[SESSION] == ARGV[6]
if current or ARGV[12] == '1' then
  local refusal = barred(row)
  if refusal then return refusal end
end
local at_ms = now_ms()
local _, ring = log_op(row, 'delete', ARGV[6], '', at_ms)
redis.call('HSET', KEYS[1], 'revision', ARGV[9], ANSWER, ARGV[9] .. '\n' .. (current and '1' or '0'))
if current then
  emptied(row, ARGV[6], ARGV[11])
end
return {'ok', ring, current and '1' or '0'}
