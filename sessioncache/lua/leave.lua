-- leave: a session is not this key's any more. Where it was current, the key has none; where it was not, only the version
-- moves, so that a switch that was about to bring it back finds out.
-- KEYS  as every change
-- ARGV  as every change (expected_version, turn and hold_ms count only if it is current), then reason, and unknown_ms
-- Reply {'miss'} | {'conflict', version} | {'lost'} | {'busy'} | {'full', bound, what waits} | {'ok', ring}
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
if known(row[OPS], ARGV[9]) then return {'ok', 0} end
local current = row[SESSION] == ARGV[6]
if current then
  local refusal = barred(row, 1)
  if refusal then return refusal end
elseif ARGV[7] ~= '' then
  return {'conflict', row[VERSION]}
end
local refusal = not current and crowded(ARGV[3], ARGV[5], 1)
if refusal then return refusal end
local _, ring = log_op(row, 'leave', ARGV[6], ARGV[11], now_ms())
redis.call('HSET', KEYS[1], 'revision', ARGV[9])
if current then
  emptied(row, '', ARGV[12])
end
return {'ok', ring}
