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
