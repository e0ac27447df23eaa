-- forget_dead: removes dead letters, each once. Oldest first they are found at once; LREM looks no further.
-- KEYS  dead
-- ARGV  the letters
-- Reply how many there were
local removed = 0
for i = 1, #ARGV do removed = removed + redis.call('LREM', KEYS[1], 1, ARGV[i]) end
return removed
