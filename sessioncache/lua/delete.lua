-- delete: the current session of a key. What stays is a hot copy without a session, for as long as ttl_ms says.
-- KEYS  meta history pending dirty wake
-- ARGV  ttl_ms wake_ms max_pending keep_ops session_key session_id op_id
-- Reply {'miss'} | {'moved', current session id, last deleted session id} | {'full', pending} | {'ok', ring}
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
local wake_ms, session_key, session_id, op_id = ARGV[2], ARGV[5], ARGV[6], ARGV[7]
if known(row[OPS], op_id) then return {'ok', 0} end
if row[SESSION] ~= session_id then
  return {'moved', row[SESSION], redis.call('HGET', KEYS[1], 'deleted') or ''}
end
local pending = redis.call('LLEN', KEYS[3])
if pending >= tonumber(ARGV[3]) then return {'full', pending} end
local at_ms, version = now_ms(), tonumber(row[VERSION]) + 1
redis.call('RPUSH', KEYS[3], header(version, op_id, 0, at_ms, 'delete', session_id))
redis.call('DEL', KEYS[2])
local ring = announce(KEYS[4], KEYS[5], session_key, at_ms, wake_ms)
redis.call('HSET', KEYS[1], 'session_id', '', 'version', integer(version), 'revision', op_id, 'count', 0, 'total', 0,
  'bytes', 0, 'owner', '', 'deleted', session_id,
  'ops', remember(row[OPS], {op_id .. ':' .. integer(version)}, tonumber(ARGV[4])))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return {'ok', ring}
