-- tell: says once of a session that the policy is about to reset it.
-- KEYS  as every change, then held
-- ARGV  as every change (hold_ms always), then ahead_ms: how far to look ahead, then the policies, as policy.lua says
-- Reply {'miss'} | {'no'} | {'clock', milliseconds of the time looked at} | {'full', bound, what waits} | {'ok', ring, '0', reason, field of meta, value, …}
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
local answer = known(row[OPS], ARGV[9]) and answered(ARGV[9])
if answer then return shown({'ok', 0, '0', answer}) end
local at_ms = now_ms()
if row[SESSION] ~= ARGV[6] then return {'no'} end
local is = redis.call('HMGET', KEYS[1], 'platform', 'chat_type', 'updated_ms', 'suspended', 'told')
if not tonumber(is[3]) then return broken() end
local why = due(ARGV, 12, at_ms + tonumber(ARGV[11]), is[1] or '', is[2] or '', tonumber(is[3]), is[4] == '1')
if why == 'clock' then return {'clock', integer(at_ms + tonumber(ARGV[11]))} end
if not why or is[5] == is[3] or held(KEYS[9], KEYS[10], ARGV[5], at_ms, ARGV[10]) then return {'no'} end
local refusal = crowded(ARGV[3], ARGV[5], 1)
if refusal then return refusal end
local _, ring = log_op(row, 'tell', ARGV[6], '', at_ms)
redis.call('HSET', KEYS[1], 'told', is[3], ANSWER, ARGV[9] .. '\n' .. why)
return shown({'ok', ring, '0', why})
