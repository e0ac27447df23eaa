-- requeue: a dead letter's group goes to the end of its key's pending log again, with new versions. The hot copy goes.
-- KEYS  meta history pending dirty wake
-- ARGV  wake_ms max_pending session_key kind of the first op, then each element without its version
-- Reply {'miss'} | {'full', pending} | {'current'}: it is a start, but there is a current session | {'ok', ring}
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
if ARGV[4] == 'start' and row[SESSION] ~= '' then return {'current'} end
local pending = redis.call('LLEN', KEYS[3])
if pending + #ARGV - 4 > tonumber(ARGV[2]) then return {'full', pending} end
local elements = {}
for n = 5, #ARGV do elements[n - 4] = integer(tonumber(row[VERSION]) + n - 4) .. ' ' .. ARGV[n] end
local ring = announce(KEYS[4], KEYS[5], ARGV[3], now_ms(), ARGV[1])
push(KEYS[3], elements)
redis.call('DEL', KEYS[1], KEYS[2])
return {'ok', ring}
