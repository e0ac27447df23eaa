-- turn: the right to answer in a session is taken, kept or given back.
-- KEYS  meta history turn
-- ARGV  verb: 'take', 'keep' or 'end'; token, ttl_ms, session_id
-- Reply 'miss' | 'moved': another session is current | 'ours' | 'taken' by another, or lost
local ours = run_id() .. ':' .. ARGV[2]
local holder = value(KEYS[3])
if ARGV[1] == 'end' then
  if holder == ours then redis.call('DEL', KEYS[3]) end
  return 'ours'
end
if holder == ours then
  redis.call('PEXPIRE', KEYS[3], ARGV[3])
  return 'ours'
end
if ARGV[1] == 'keep' then return 'taken' end
local row = hot(KEYS[1], KEYS[2])
if not row then return 'miss' end
if row[SESSION] ~= ARGV[4] then return 'moved' end
if holder and string.sub(holder, 1, #row[RUN]) == row[RUN] then return 'taken' end
redis.call('SET', KEYS[3], ours, 'PX', ARGV[3])
return 'ours'
