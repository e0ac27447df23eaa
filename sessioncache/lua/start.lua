-- start: a new session under a key that has the expected current one.
-- KEYS  meta history pending dirty wake
-- ARGV  ttl_ms wake_ms max_pending keep_ops session_key expected_session_id ('' for none) new_session_id op_id owner payload
-- Reply {'miss'} | {'moved', current session id} | {'full', pending} | {'ok', session id, version, ring}
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
local ttl_ms, wake_ms, session_key, op_id = ARGV[1], ARGV[2], ARGV[5], ARGV[8]
local version = tonumber(row[VERSION]) + 1
local ring = 0
if known(row[OPS], op_id) then
  version = version - 1
else
  if row[SESSION] ~= ARGV[6] then return {'moved', row[SESSION]} end
  local pending = redis.call('LLEN', KEYS[3])
  if pending >= tonumber(ARGV[3]) then return {'full', pending} end
  local at_ms = now_ms()
  redis.call('RPUSH', KEYS[3], header(version, op_id, 0, at_ms, 'start', ARGV[7]) .. ARGV[10])
  redis.call('DEL', KEYS[2])
  ring = announce(KEYS[4], KEYS[5], session_key, at_ms, wake_ms)
  redis.call('HSET', KEYS[1], 'session_id', ARGV[7], 'version', integer(version), 'revision', op_id, 'count', 0,
    'total', 0, 'bytes', 0, 'owner', ARGV[9], 'ops', remember(row[OPS], {op_id .. ':' .. integer(version)}, tonumber(ARGV[4])),
    'created_ms', integer(at_ms), 'updated_ms', integer(at_ms), 'accessed_ms', integer(at_ms), 'touched_ms', integer(at_ms))
end
slide(KEYS[1], KEYS[2], ttl_ms)
return {'ok', ARGV[7], integer(version), ring}
