-- What the scripts share that begin sessions and show them. It follows common.lua.

-- What a session that replaces another one keeps of it.
local KEPT = {'owner', 'origin', 'display_name', 'platform', 'chat_type'}
local TOKENS = {'input_tokens', 'output_tokens', 'cache_read_tokens', 'cache_write_tokens'}

-- A field of meta like ANSWER, of the op that began the session: what comes later does not write over it.
local BEGAN = 'began'

local function began(op_id)
  local answer = redis.call('HGET', KEYS[1], BEGAN)
  return answer and string.sub(answer, 1, #op_id + 1) == op_id .. '\n' and string.sub(answer, #op_id + 2)
end

local function had_activity(row)
  if row[SESSION] == '' then return '0' end
  if row[TOTAL] ~= '0' then return '1' end
  for _, count in ipairs(redis.call('HMGET', KEYS[1], unpack(TOKENS))) do
    if count and (tonumber(count) or 0) > 0 then return '1' end
  end
  return '0'
end

-- Begins a session with the fields of ARGV from first to last (pairs of name and value), over what it keeps of the one it
-- replaces. 1 if the caller sends a nudge; whether the old one had activity.
local function begin(row, session_id, payload, first, last, at_ms, reason)
  local had = had_activity(row)
  local kept = row[SESSION] ~= '' and redis.call('HMGET', KEYS[1], unpack(KEPT)) or {}
  local version, ring = log_op(row, 'start', session_id, (row[SESSION] ~= '' and '1' or '0') .. payload, at_ms)
  local ops, deleted = redis.call('HGET', KEYS[1], 'ops'), redis.call('HGET', KEYS[1], 'deleted')
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[8])
  if deleted then redis.call('HSET', KEYS[1], 'deleted', deleted) end
  redis.call('HSET', KEYS[1], 'run', row[RUN], 'session_id', session_id, 'version', integer(version), 'revision', ARGV[9],
    'count', 0, 'total', 0, 'bytes', 0, 'ops', ops, 'owner', '', 'created_ms', integer(at_ms), 'updated_ms', integer(at_ms),
    BEGAN, ARGV[9] .. '\n' .. had .. (reason or ''))
  for n, name in ipairs(KEPT) do
    if kept[n] then redis.call('HSET', KEYS[1], name, kept[n]) end
  end
  for i = first, last, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
  accessed(at_ms)
  return ring, had
end

-- The reply with the fields of meta after it, but for those that are of no use to a caller.
local function shown(reply)
  local fields = redis.call('HGETALL', KEYS[1])
  for i = 1, #fields, 2 do
    if fields[i] ~= 'ops' and fields[i] ~= ANSWER and fields[i] ~= BEGAN then
      reply[#reply + 1] = fields[i]
      reply[#reply + 1] = fields[i + 1]
    end
  end
  return reply
end

-- An opening or a read is an access. It writes no op, but for one `touch` now and then, so that SQL learns of it; whether
-- the caller sends a nudge. Begins with PEXPIRE, so that it runs when Redis is full.
local function touch(row, at_ms, touch_ms, op_id, ttl_ms, wake_ms, bounds, session_key)
  slide(KEYS[1], KEYS[2], ttl_ms)
  redis.call('HSET', KEYS[1], 'accessed_ms', integer(at_ms))
  if at_ms - tonumber(row[TOUCHED]) < tonumber(touch_ms) or crowded(bounds, session_key, 1) then return 0 end
  row[VERSION] = integer(tonumber(row[VERSION]) + 1)
  local at = integer(at_ms)
  local element = logged(row[VERSION], op_id, 0, at, 'touch', row[SESSION], '')
  local ring = announce(session_key, at, wake_ms, {element})
  redis.call('RPUSH', KEYS[3], element)
  redis.call('HSET', KEYS[1], 'version', row[VERSION], 'touched_ms', at)
  return ring
end
