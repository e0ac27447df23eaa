-- read: the current session of a key, and its messages or what is newer than the caller has. Slides the TTL.
-- Begins with PEXPIRE or UNLINK, so that it runs when Redis is full.
-- KEYS  meta history pending dirty wake backlog oldest
-- ARGV  ttl_ms wake_ms bounds touch_ms ('' for a look: no access, the TTL is left as it is) touch op id, session_key
--       want (messages; -1 for all that are hot)
--       session_id revision version total: what the caller has, all '' if nothing
-- Reply {'miss'} | {'full' or 'delta', session id, version, revision, total, owner, consolidated seq, ring, count of what is
-- hot, {element, …}}
local row = hot(KEYS[1], KEYS[2])
if not row then
  redis.call('UNLINK', KEYS[2])  -- what stands there is no copy; a command beside this script would send all of it
  return {'miss'}
end
local want, total, count = tonumber(ARGV[7]), tonumber(row[TOTAL]), tonumber(row[COUNT])
local has, ring = tonumber(row[VERSION]), 0
if row[SESSION] ~= '' and ARGV[4] ~= '' then ring = touch(row, now_ms(), ARGV[4], ARGV[5], ARGV[1], ARGV[2], ARGV[3], ARGV[6]) end
local kind, first = 'full', 0
if ARGV[8] == row[SESSION] and ARGV[9] == row[REVISION] and tonumber(ARGV[10]) <= has
    and total - tonumber(ARGV[11]) <= count then
  kind, first = 'delta', count - (total - tonumber(ARGV[11]))
elseif want >= 0 then
  first = math.max(0, count - want)
end
return {kind, row[SESSION], row[VERSION], row[REVISION], integer(total), row[OWNER],
  redis.call('HGET', KEYS[1], 'consolidated_seq') or '0', ring, count,
  first < count and redis.call('LRANGE', KEYS[2], first, -1) or {}}
