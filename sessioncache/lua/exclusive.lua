-- exclusive: one process at a time does what a key is named for; its time ends by itself.
-- KEYS  the key
-- ARGV  token time_ms ('0' gives it back), '1' if it must be this process already
-- Reply 1: it is this process | 0
local held = value(KEYS[1])
if held and held ~= ARGV[1] or not held and ARGV[3] == '1' then return 0 end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return 0
end
if held then redis.call('PEXPIRE', KEYS[1], ARGV[2]) else redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return 1
