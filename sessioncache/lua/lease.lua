-- lease: the right to hydrate a key, bound to the running Redis process.
-- KEYS  meta history pending lease
-- ARGV  token lease_ms
-- Reply {'have'}: there is a valid hot copy | {'held'}: somebody else is at it | {'ours', length of the pending log}
if hot(KEYS[1], KEYS[2]) then return {'have'} end
local ours = run_id() .. ':' .. ARGV[1]
local held = value(KEYS[4])
if held and held ~= ours and string.match(held, '^[^:]*') == run_id() then return {'held'} end
redis.call('SET', KEYS[4], ours, 'PX', ARGV[2])
return {'ours', redis.call('LLEN', KEYS[3])}
