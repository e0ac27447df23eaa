-- record: what Redis says of its number of partitions, as the process says that changes it; if that still is the one.
-- KEYS  layout, the key of the right to change it
-- ARGV  token, layout version, number of partitions ('': as it is), the number that is coming ('': none)
-- Reply 1 | 0: another process has the right, or none
if value(KEYS[2]) ~= ARGV[1] then return 0 end
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'version', ARGV[2], 'partitions', ARGV[3]) end
if ARGV[4] == '' then redis.call('HDEL', KEYS[1], 'moving_to') else redis.call('HSET', KEYS[1], 'moving_to', ARGV[4]) end
return 1
