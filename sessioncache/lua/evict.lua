-- evict: drops the hot copy of a key. Nothing is lost (I1).
-- KEYS  meta history
-- Reply 1: there was one | 0
return redis.call('DEL', KEYS[1], KEYS[2]) > 0 and 1 or 0
