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
  local told = redis.call('INFO', 'server')
  return string.match(told, '^run_id:(%w+)', (string.find(told, 'run_id:', 1, true)))
end

local function integer(number)
  return string.format('%.0f', number)
end

-- Whether a background process holds a session key. Where that cannot be told, it does; so it does for as long as a hold
-- may last after Redis started, because holds may have been lost.
-- All holds are looked at only where `index` does not name the same.
local function held(holds, index, session_key, at_ms, hold_ms)
  local uptime = tonumber(string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)'))
  if uptime * 1000 < tonumber(hold_ms) then return true end
  local all = redis.pcall('ZCARD', holds)
  if type(all) ~= 'number' then return true end
  if redis.pcall('ZCARD', index) == all then
    for _, member in ipairs(redis.call('ZRANGEBYLEX', index, '[' .. session_key .. '\n', '(' .. session_key .. '\11')) do
      local ends = redis.call('ZSCORE', holds, member)
      if not ends or tonumber(ends) > at_ms then return true end
    end
    return false
  end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', holds, '(' .. integer(at_ms), '+inf')) do
    if string.sub(member, 1, #session_key + 1) == session_key .. '\n' then return true end
  end
  return false
end

local EXACT = 2 ^ 53  -- integers from here on are not exact in doubles

-- The columns of a valid hot copy, else nil: published under the present run, and whole (I5). Garbage in it, or keys of other
-- types, are no hot copy; a hydration replaces them.
local function hot(meta, history)
  local row = redis.pcall('HMGET', meta, unpack(COLUMNS))
  if row.err or row[RUN] == false or row[RUN] ~= run_id() then return nil end
  for n = 2, #COLUMNS do
    if not row[n] then return nil end
  end
  local numbers = row[COUNT] .. ' ' .. row[VERSION] .. ' ' .. row[TOTAL] .. ' ' .. row[BYTES] .. ' ' .. row[TOUCHED]
  if not string.find(numbers, '^%d+ %d+ %d+ %d+ %d+$') then return nil end
  local count, total = tonumber(row[COUNT]), tonumber(row[TOTAL])
  if redis.pcall('LLEN', history) ~= count or total < count then return nil end
  if math.max(total, tonumber(row[VERSION]), tonumber(row[BYTES]), tonumber(row[TOUCHED])) >= EXACT then return nil end
  return row
end

-- A hot copy that turns out to hold garbage goes; the next try brings another.
local function broken()
  redis.call('DEL', KEYS[1], KEYS[2])
  return {'miss'}
end

-- A counter in meta: 0 where there is none, nil for garbage.
local function counter(name)
  local found = redis.call('HGET', KEYS[1], name)
  if not found or found == '' then return 0 end
  return string.find(found, '^%d+$') and tonumber(found) < EXACT and tonumber(found) or nil
end

-- What a string key holds; false for none, and for a key of another type.
local function value(key)
  local found = redis.pcall('GET', key)
  return type(found) == 'string' and found
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

-- The first versions of all ops that were applied already, by op id.
local function all_known(ops)
  local found = {}
  for op_id, version in string.gmatch(ops, '([^ ;]+):(%d+)') do found[op_id] = found[op_id] or tonumber(version) end
  return found
end

-- The remembered ops after a group of more. The oldest groups go as long as the rest is no shorter than `keep` ops that are as
-- long as the newest one, which has the longest version: so the rest holds `keep` ops, and hardly more.
local function remember(ops, added, keep)
  local enough = keep * (#added[#added] + 1) - 1
  added = table.concat(added, ' ')
  if ops == '' or #added >= enough then return added end
  local first, stop = 1, string.find(ops, ';', 1, true)
  while stop and #ops - stop + 1 + #added >= enough do
    first, stop = stop + 1, string.find(ops, ';', stop + 1, true)
  end
  return string.sub(ops, first) .. ';' .. added
end

local function push(list, elements)
  for first = 1, #elements, CHUNK do
    redis.call('RPUSH', list, unpack(elements, first, math.min(first + CHUNK - 1, #elements)))
  end
end

-- An element of a pending log: a plain header, then the payload. The version and the milliseconds are strings.
local function logged(version, op_id, left, at, kind, session_id, payload)
  return version .. ' ' .. op_id .. ' ' .. left .. ' ' .. at .. ' ' .. kind .. ' ' .. session_id .. '\n' .. payload
end

-- What waits for the store in a partition is counted, so that writes can be refused in time. The hash `backlog` holds
-- '<ops> <bytes>' for each session key, under '=<session key>', and their sum, under 'total'; the zset `oldest` has the keys
-- by when the first op of their log was accepted. Whatever script writes a log writes both. What they lack (a log of a version
-- without them) is not counted; what they have too much goes when the key's log is empty, or no key is dirty any more.
local TOTAL_WAITS = 'total'

local function ops_and_bytes(text)
  local ops, bytes = string.match(text or '', '^(%d+) (%d+)$')
  return tonumber(ops or 0), tonumber(bytes or 0)
end

-- Ops and bytes that wait in the partition, then those of the session key; and the field of the latter.
local function counted(backlog, session_key)
  local own = '=' .. session_key
  local found = redis.call('HMGET', backlog, TOTAL_WAITS, own)
  local all_ops, all_bytes = ops_and_bytes(found[1])
  local own_ops, own_bytes = ops_and_bytes(found[2])
  return all_ops, all_bytes, own_ops, own_bytes, own
end

local function sums(ops, bytes)
  return string.format('%.0f %.0f', ops, bytes)
end

-- What scripts that log something share is called with KEYS  meta history pending dirty wake backlog oldest

local before  -- what was counted when `crowded` looked: nothing of it changes until `announce` counts on

-- Marks the key dirty, rings the doorbell and counts the elements that are logged next. 1: nobody was about, the caller sends
-- a nudge. The first write of whatever logs, because it needs memory, and a dirty index of a wrong type shows in it.
local function announce(session_key, at, wake_ms, elements)
  local bytes = 0
  for _, element in ipairs(elements) do bytes = bytes + #element end
  local all_ops, all_bytes, own_ops, own_bytes, own = unpack(before or {counted(KEYS[6], session_key)})
  redis.call('ZADD', KEYS[4], 'NX', at, session_key)
  redis.call('HSET', KEYS[6], TOTAL_WAITS, sums(all_ops + #elements, all_bytes + bytes), own,
    sums(own_ops + #elements, own_bytes + bytes))
  if own_ops == 0 then redis.call('ZADD', KEYS[7], 'NX', at, session_key) end
  return redis.call('SET', KEYS[5], '1', 'NX', 'PX', wake_ms) and 1 or 0
end

-- Nil where so many more ops may wait; else the reply that says which bound is met, and what waits already (a number of ops
-- or bytes, or milliseconds). A bound of bytes or age is met when it is reached, so that one call may pass it by what it brings.
-- `bounds` are numbers, parted by spaces: ops, bytes and milliseconds (0: any) of the session key, then of the partition.
local function crowded(bounds, session_key, ops)
  local key_ops, key_bytes, key_ms, most_ops, most_bytes, most_ms =
    string.match(bounds, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  local pending = redis.call('LLEN', KEYS[3])
  if pending + ops > tonumber(key_ops) then return {'full', 'max_pending', pending} end
  before = {counted(KEYS[6], session_key)}
  local all_ops, all_bytes, _, own_bytes = unpack(before)
  if pending > 0 then
    if own_bytes >= tonumber(key_bytes) then return {'full', 'max_pending_bytes', own_bytes} end
    local since = key_ms ~= '0' and redis.call('ZSCORE', KEYS[7], session_key)
    local age = since and now_ms() - tonumber(since)
    if age and age >= tonumber(key_ms) then return {'full', 'max_pending_age', age} end
  end
  local bound, waits
  if all_ops + ops > tonumber(most_ops) then
    bound, waits = 'max_backlog', all_ops
  elseif all_bytes >= tonumber(most_bytes) then
    bound, waits = 'max_backlog_bytes', all_bytes
  elseif most_ms ~= '0' then
    local since = redis.call('ZRANGE', KEYS[7], 0, 0, 'WITHSCORES')[2]
    local age = since and now_ms() - tonumber(since)
    if age and age >= tonumber(most_ms) then bound, waits = 'max_backlog_age', age end
  end
  -- Without a dirty key nothing waits, whatever was counted.
  if bound and (ops > tonumber(most_ops) or redis.call('EXISTS', KEYS[4]) == 1) then return {'full', bound, waits} end
  return nil
end

-- Counts what was removed from a key's log. Neither sum falls below what is left of others.
local function waits_no_more(backlog, oldest, pending, session_key, ops, bytes)
  local all_ops, all_bytes, own_ops, own_bytes, own = counted(backlog, session_key)
  local head = redis.pcall('LINDEX', pending, 0)  -- an error of a key that is no list: nothing is left there
  if type(head) ~= 'string' then
    ops, bytes = own_ops, own_bytes
    redis.call('HDEL', backlog, own)
    redis.call('ZREM', oldest, session_key)
  elseif ops > 0 then
    ops, bytes = math.min(ops, own_ops), math.min(bytes, own_bytes)
    redis.call('HSET', backlog, own, sums(own_ops - ops, own_bytes - bytes))
    local since = string.match(head, '^%d+ %S+ %d+ (%d+) ')
    -- GT: a retried dead letter is older than the time that it waits.
    if since then redis.call('ZADD', oldest, 'GT', since, session_key) end
  end
  if ops > 0 then
    redis.call('HSET', backlog, TOTAL_WAITS, sums(math.max(0, all_ops - ops), math.max(0, all_bytes - bytes)))
  end
end

local function nothing_waits(dirty, backlog, oldest)
  if redis.call('EXISTS', dirty) == 0 then redis.call('DEL', backlog, oldest) end
end

-- A change of a session: what these scripts share is called with
-- KEYS  meta history pending dirty wake backlog oldest turn holds
-- ARGV  ttl_ms wake_ms bounds keep_ops session_key session_id expected_version ('' for any) turn ('' for none) op_id
--       hold_ms ('' unless the change may only happen while nothing is pending and nobody holds the key: then held is
--       among KEYS too, after holds)
local ANSWER = 'answer'  -- a field of meta: '<op id>\n<what that op was answered>', for a repeat

-- Nil if the change may happen; else the reply that says why not. Where there is no session nothing changes, but for what
-- says that it may (`nobody`). `ops`: how many it logs; nil for what is let through however much waits.
local function barred(row, ops, nobody)
  if row[SESSION] ~= ARGV[6] or (row[SESSION] == '' and not nobody) then
    return {'moved', row[SESSION], redis.call('HGET', KEYS[1], 'deleted') or ''}
  end
  if ARGV[7] ~= '' and tonumber(ARGV[7]) ~= tonumber(row[VERSION]) then return {'conflict', row[VERSION]} end
  if ARGV[8] ~= '' and value(KEYS[8]) ~= row[RUN] .. ':' .. ARGV[8] then return {'lost'} end
  if ARGV[10] ~= '' and (redis.call('LLEN', KEYS[3]) > 0 or held(KEYS[9], KEYS[10], ARGV[5], now_ms(), ARGV[10])) then return {'busy'} end
  return ops and crowded(ARGV[3], ARGV[5], ops)
end

-- Logs one op for a session and announces it; its version, and 1 if the caller sends a nudge. The first write of a change,
-- because it needs memory, and a dirty index of a wrong type shows in it: the change is refused whole.
local function log_op(row, kind, session_id, payload, at_ms)
  local version, at = integer(tonumber(row[VERSION]) + 1), integer(at_ms)
  local element = logged(version, ARGV[9], 0, at, kind, session_id, payload)
  local ring = announce(ARGV[5], at, ARGV[2], {element})
  redis.call('RPUSH', KEYS[3], element)
  redis.call('HSET', KEYS[1], 'version', version, 'ops', remember(row[OPS], {ARGV[9] .. ':' .. version}, tonumber(ARGV[4])))
  return tonumber(version), ring
end

local function accessed(at_ms)
  redis.call('HSET', KEYS[1], 'accessed_ms', integer(at_ms), 'touched_ms', integer(at_ms))
  slide(KEYS[1], KEYS[2], ARGV[1])
end

-- What an op was answered that was applied already, if that is still known.
local function answered(op_id)
  local answer = redis.call('HGET', KEYS[1], ANSWER)
  if answer and string.sub(answer, 1, #op_id + 1) == op_id .. '\n' then return string.sub(answer, #op_id + 2) end
  return nil
end

-- What stays of a hot copy whose session is gone: that the key has none. Ends soon by itself.
local function emptied(row, deleted, ttl_ms)
  local kept = redis.call('HMGET', KEYS[1], 'version', 'ops', ANSWER)
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[8])
  redis.call('HSET', KEYS[1], 'run', row[RUN], 'count', 0, 'session_id', '', 'version', kept[1], 'revision', ARGV[9],
    'total', 0, 'bytes', 0, 'ops', kept[2], ANSWER, kept[3] or '', 'owner', '', 'touched_ms', 0, 'deleted', deleted)
  redis.call('PEXPIRE', KEYS[1], ttl_ms)
end

-- Drops the oldest hot messages beyond the window; what is left: count and bytes. One is always kept.
local function trimmed(history, count, bytes, window, window_bytes)
  while count > 1 and (count > window or bytes > window_bytes) do
    bytes = bytes - #redis.call('LPOP', history)
    count = count - 1
  end
  return count, bytes
end

