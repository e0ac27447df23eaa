-- release: gives a lease back, if it is still ours.
-- KEYS  lease
-- ARGV  token
-- Reply 1 | 0
if value(KEYS[1]) ~= run_id() .. ':' .. ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
