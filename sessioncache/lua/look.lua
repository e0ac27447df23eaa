-- look: the current session of a key, without the access that an opening is.
-- KEYS  meta history holds held
-- ARGV  session_key hold_ms
-- Reply {'miss'} | {'ok', '1' if a background process holds the key, field of meta, value, …}; no fields without a session
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
local is_held = held(KEYS[3], KEYS[4], ARGV[1], now_ms(), ARGV[2]) and '1' or '0'
if row[SESSION] == '' then return {'ok', is_held} end
return shown({'ok', is_held})
