-- layout: what Redis was laid out for; records it where nothing is recorded yet and `record` is '1'.
-- KEYS  layout
-- ARGV  version partitions record
-- Reply {version, partitions} as recorded | {} where nothing is
if ARGV[3] == '1' then
  redis.call('HSETNX', KEYS[1], 'version', ARGV[1])
  redis.call('HSETNX', KEYS[1], 'partitions', ARGV[2])
end
local found = redis.call('HMGET', KEYS[1], 'version', 'partitions')
if not found[1] then return {} end
return found
