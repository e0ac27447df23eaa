-- start: the current session of a key ends, and a new one begins.
-- KEYS  as every change
-- ARGV  as every change, then the new session id, payload (opaque, for the store), and pairs: field of meta, value
-- Reply {'miss'} | {'moved', current session id, last deleted session id} | {'conflict', version} | {'lost'} | {'full', bound, what waits}
--       {'ok', ring, had activity, field of meta, value, …}
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
local ring, had = 0, began(ARGV[9]) or '0'
if known(row[OPS], ARGV[9]) then
  if row[SESSION] ~= ARGV[11] then return {'moved', row[SESSION], redis.call('HGET', KEYS[1], 'deleted') or ''} end
else
  local refusal = barred(row, 1)
  if refusal then return refusal end
  ring, had = begin(row, ARGV[11], ARGV[12], 13, #ARGV, now_ms())
end
return shown({'ok', ring, had})
