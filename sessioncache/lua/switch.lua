-- switch: an earlier session becomes current. The hot copy goes; the next read brings that session's.
-- KEYS  as every change
-- ARGV  as every change (session_id: that which is current now, '' for none), then the session id that shall be, its last seq,
--       and the revision that the key must have
-- Reply {'miss'} | {'moved', current session id, last deleted session id} | {'conflict', version} | {'lost'} | {'full', bound, what waits}
--       {'changed'}: another revision | {'ok', ring}
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
if known(row[OPS], ARGV[9]) then return {'ok', 0} end
local refusal = barred(row, 1, true)
if refusal then return refusal end
if row[REVISION] ~= ARGV[13] then return {'changed'} end
row[VERSION] = math.max(tonumber(row[VERSION]), tonumber(ARGV[12]))
local _, ring = log_op(row, 'switch', ARGV[11], '', now_ms())
redis.call('DEL', KEYS[1], KEYS[2], KEYS[8])
return {'ok', ring}
