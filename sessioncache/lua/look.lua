-- look: the current session of a key, without the access that an opening is.
-- KEYS  meta history
-- ARGV  none
-- Reply {'miss'} | {'ok', field of meta, value, …}; no fields where there is no session
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
if row[SESSION] == '' then return {'ok'} end
return shown({'ok'})
