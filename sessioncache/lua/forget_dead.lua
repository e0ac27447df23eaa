-- forget_dead: removes dead letters.
-- KEYS  dead
-- ARGV  the letters
-- Reply how many there were
local removed = 0
for i = 1, #ARGV do removed = removed + redis.call('LREM', KEYS[1], 0, ARGV[i]) end
return removed
