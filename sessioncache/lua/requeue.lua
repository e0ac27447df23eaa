-- requeue: a dead letter's group goes to the end of its key's pending log again, with new versions. The hot copy goes.
-- KEYS  meta history pending dirty wake backlog oldest
-- ARGV  wake_ms bounds session_key kind of the first op, then each element without its version
-- Reply {'miss'} | {'full', bound, what waits} | {'current'}: it is a start, but there is a current session | {'ok', ring}
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
if ARGV[4] == 'start' and row[SESSION] ~= '' then return {'current'} end
local refusal = crowded(ARGV[2], ARGV[3], #ARGV - 4)
if refusal then return refusal end
local elements = {}
for n = 5, #ARGV do elements[n - 4] = integer(tonumber(row[VERSION]) + n - 4) .. ' ' .. ARGV[n] end
local ring = announce(ARGV[3], integer(now_ms()), ARGV[1], elements)
push(KEYS[3], elements)
redis.call('DEL', KEYS[1], KEYS[2])
return {'ok', ring}
