-- read: the current session of a key, and its messages or what is newer than the caller has. Slides the TTL.
-- Begins with PEXPIRE, so that it runs when Redis is full.
-- KEYS  meta history pending dirty wake
-- ARGV  ttl_ms wake_ms max_pending touch_ms op_id session_key want (messages; -1 for all)
--       session_id revision version total: what the caller has, all '' if nothing
-- Reply {'miss'} | {'full' or 'delta', session id, version, revision, total, owner, ring, element, …}
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
local ttl_ms, want = ARGV[1], tonumber(ARGV[7])
local at_ms, ring = now_ms(), 0
local version, total, count = tonumber(row[VERSION]), tonumber(row[TOTAL]), tonumber(row[COUNT])
if row[SESSION] ~= '' then
  slide(KEYS[1], KEYS[2], ttl_ms)
  redis.call('HSET', KEYS[1], 'accessed_ms', integer(at_ms))
  -- A read writes no op, but for one `touch` now and then, so that SQL learns of the access.
  if at_ms - tonumber(row[TOUCHED]) >= tonumber(ARGV[4]) and redis.call('LLEN', KEYS[3]) < tonumber(ARGV[3]) then
    version = version + 1
    redis.call('RPUSH', KEYS[3], header(version, ARGV[5], 0, at_ms, 'touch', row[SESSION]))
    ring = announce(KEYS[4], KEYS[5], ARGV[6], at_ms, ARGV[2])
    redis.call('HSET', KEYS[1], 'version', integer(version), 'touched_ms', integer(at_ms))
  end
end
local kind, first = 'full', 0
if ARGV[8] == row[SESSION] and ARGV[9] == row[REVISION] and tonumber(ARGV[10]) <= tonumber(row[VERSION])
    and total - tonumber(ARGV[11]) <= count then
  kind, first = 'delta', count - (total - tonumber(ARGV[11]))
elseif want >= 0 then
  first = math.max(0, count - want)
end
local reply = {kind, row[SESSION], integer(version), row[REVISION], integer(total), row[OWNER], ring}
if first < count then
  for _, element in ipairs(redis.call('LRANGE', KEYS[2], first, -1)) do reply[#reply + 1] = element end
end
return reply
