-- What every script begins with: the rules of design section 4 and 5 that several verbs share.
-- A script is this text followed by its own. Times are milliseconds by Redis's clock; numbers travel as strings.

-- meta, as a row of columns
local RUN, COUNT, SESSION, VERSION, REVISION, TOTAL, BYTES, OPS, OWNER, TOUCHED = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
local COLUMNS = {'run', 'count', 'session_id', 'version', 'revision', 'total', 'bytes', 'ops', 'owner', 'touched_ms'}
local CHUNK = 1000  -- unpack fails beyond about 8,000 values

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- the identity of the running Redis process
local function run_id()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
end

local function integer(number)
  return string.format('%.0f', number)
end

-- The columns of a valid hot copy, else nil: published under the present run, and whole (I5).
local function hot(meta, history)
  local row = redis.call('HMGET', meta, unpack(COLUMNS))
  if row[RUN] == false or row[RUN] ~= run_id() then return nil end
  if redis.call('LLEN', history) ~= tonumber(row[COUNT]) then return nil end
  return row
end

local function slide(meta, history, ttl_ms)
  redis.call('PEXPIRE', meta, ttl_ms)
  redis.call('PEXPIRE', history, ttl_ms)
end

-- The first version of an op that was applied already, else nil. `ops` is 'opid:version opid:version;opid:version …':
-- what was written at once is a group, and groups are parted by ';'.
local function known(ops, op_id)
  local _, stop = string.find(ops, op_id .. ':', 1, true)
  return stop and tonumber(string.match(ops, '^%d+', stop + 1))
end

-- The remembered ops after a group of more, cut to the newest groups that hold `keep` ops between them.
local function remember(ops, added, keep)
  local groups, first, count = {}, 1, #added
  for group in string.gmatch(ops, '[^;]+') do groups[#groups + 1] = group end
  groups[#groups + 1] = table.concat(added, ' ')
  for n = #groups - 1, 1, -1 do
    if count >= keep then
      first = n + 1
      break
    end
    local _, ops_in_group = string.gsub(groups[n], ':', '')
    count = count + ops_in_group
  end
  return table.concat(groups, ';', first)
end

local function push(list, elements)
  for first = 1, #elements, CHUNK do
    redis.call('RPUSH', list, unpack(elements, first, math.min(first + CHUNK - 1, #elements)))
  end
end

-- The plain header of an element of a pending log.
local function header(version, op_id, left, at_ms, kind, session_id)
  return table.concat({integer(version), op_id, left, integer(at_ms), kind, session_id}, ' ') .. '\n'
end

-- Marks the key dirty and rings the doorbell. 1: nobody was about, the caller sends a nudge.
local function announce(dirty, wake, session_key, at_ms, wake_ms)
  redis.call('ZADD', dirty, 'NX', integer(at_ms), session_key)
  return redis.call('SET', wake, '1', 'NX', 'PX', wake_ms) and 1 or 0
end

-- append: messages to the current session of a key, all or none of them.
-- KEYS  meta history pending dirty wake
-- ARGV  ttl_ms wake_ms max_pending window window_bytes keep_ops session_key session_id expected_version ('' for any)
--       then, for each message: op_id and '<message id>\n<msgpack>'. Messages without ids of their own share an op id.
-- Reply {'miss'} | {'moved', current session id, last deleted session id} | {'conflict', version} | {'full', pending}
--       {'ok', version before, version, revision, total, ring, seq, milliseconds, seq, milliseconds, …}
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
local ttl_ms, wake_ms, max_pending = ARGV[1], ARGV[2], tonumber(ARGV[3])
local window, window_bytes, keep_ops = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local session_key, session_id, expected = ARGV[7], ARGV[8], ARGV[9]

-- Decide: which messages are new, and what was answered for the others.
local at_ms = now_ms()
local version, answer, fresh = tonumber(row[VERSION]), {}, {}
local op_id, first, oldest
for i = 10, #ARGV, 2 do
  if ARGV[i] ~= op_id then
    op_id = ARGV[i]
    first = known(row[OPS], op_id)
  elseif first then
    first = first + 1
  end
  if first then
    answer[#answer + 1] = integer(first)
    answer[#answer + 1] = false
    oldest = math.min(oldest or first, first)
  else
    fresh[#fresh + 1] = i
    answer[#answer + 1] = integer(version + #fresh)
    answer[#answer + 1] = integer(at_ms)
  end
end

-- When the messages that are repeats were accepted. They stand within few ops of the end of the hot copy; for one that was
-- removed since, the time of this call is as good an answer as there is.
if oldest then
  local accepted = {}
  for _, element in ipairs(redis.call('LRANGE', KEYS[2], oldest - version - 1, -1)) do
    local seq, ms = string.match(element, '^(%d+) (%d+) ')
    accepted[seq] = ms
  end
  for n = 2, #answer, 2 do answer[n] = answer[n] or accepted[answer[n - 1]] or integer(at_ms) end
end

local ring = 0
local total = tonumber(row[TOTAL]) + #fresh
if #fresh > 0 then
  if row[SESSION] ~= session_id then
    return {'moved', row[SESSION], redis.call('HGET', KEYS[1], 'deleted') or ''}
  end
  if expected ~= '' and tonumber(expected) ~= version then return {'conflict', row[VERSION]} end
  local pending = redis.call('LLEN', KEYS[3])
  if pending + #fresh > max_pending then return {'full', pending} end

  -- Act.
  local elements, log, added, bytes = {}, {}, {}, tonumber(row[BYTES])
  for n, i in ipairs(fresh) do
    local seq = version + n
    elements[n] = integer(seq) .. ' ' .. integer(at_ms) .. ' ' .. ARGV[i + 1]
    log[n] = header(seq, ARGV[i], #fresh - n, at_ms, 'append', session_id) .. ARGV[i + 1]
    bytes = bytes + #elements[n]
    if n == 1 or ARGV[fresh[n - 1]] ~= ARGV[i] then added[#added + 1] = ARGV[i] .. ':' .. integer(seq) end
  end
  push(KEYS[2], elements)
  push(KEYS[3], log)
  local count = tonumber(row[COUNT]) + #fresh
  while count > 1 and (count > window or bytes > window_bytes) do
    bytes = bytes - #redis.call('LPOP', KEYS[2])
    count = count - 1
  end
  ring = announce(KEYS[4], KEYS[5], session_key, at_ms, wake_ms)
  redis.call('HSET', KEYS[1], 'version', integer(version + #fresh), 'count', count, 'total', integer(total),
    'bytes', integer(bytes), 'ops', remember(row[OPS], added, keep_ops),
    'updated_ms', integer(at_ms), 'accessed_ms', integer(at_ms), 'touched_ms', integer(at_ms))
end
slide(KEYS[1], KEYS[2], ttl_ms)
local reply = {'ok', row[VERSION], integer(version + #fresh), row[REVISION], integer(total), ring}
for i = 1, #answer do reply[#reply + 1] = answer[i] end
return reply
