-- Functions about partitions: sc_summary, sc_lanes, sc_dirty, sc_dead; then all functions are registered.
local MOST_SESSIONS = 1000

-- What waits in a partition.
local function looked_at(prefix, partition, at_ms)
  local function key(kind) return named(prefix, partition, kind) end
  local found = {partition = partition, dirty = count('ZCARD', key('dirty')), dead = count('LLEN', key('dead')), ops = 0, bytes = 0,
    holds = count('ZCOUNT', key('holds'), '(' .. integer(at_ms), '+inf'), woken = count('EXISTS', key('wake')), age = 0}
  if found.dirty > 0 then
    found.ops, found.bytes = ops_and_bytes(said('HGET', key('backlog'), TOTAL_WAITS))
    local oldest = list('ZRANGE', key('oldest'), 0, 0, 'WITHSCORES')
    if #oldest == 0 then oldest = list('ZRANGE', key('dirty'), 0, 0, 'WITHSCORES') end
    found.age = math.max(0, at_ms - (tonumber(oldest[2]) or at_ms))
  end
  return found
end

local SUMS = {'dirty', 'dead', 'ops', 'bytes', 'holds', 'woken'}

local function sum_up(sum, one)
  for _, name in ipairs(SUMS) do sum[name] = (sum[name] or 0) + one[name] end
  sum.age = math.max(sum.age or 0, one.age)
end

local function memory()
  local text = redis.call('INFO', 'memory')
  local function told(name) return string.match(text, '\n' .. name .. ':([^\r\n]*)') or '?' end
  local bound = told('maxmemory') == '0' and 'without a bound' or 'of ' .. told('maxmemory') .. ' bytes'
  return told('used_memory') .. ' bytes ' .. bound .. ', ' .. told('maxmemory_policy')
end

-- sc_summary: everything at a glance.
local function summary(keys)
  local prefix, first, last = partitions_asked_for(keys)
  local lines, sum, at_ms, dirty = {}, {}, now_ms(), 0
  for partition = first, last do
    local one = looked_at(prefix, partition, at_ms)
    dirty = dirty + (one.dirty > 0 and 1 or 0)
    sum_up(sum, one)
  end
  fact(lines, 'partitions', string.format('%d, %d of them dirty', last - first + 1, dirty))
  local moving_to = last > first and redis.call('HGET', named(prefix, 0, 'layout'), 'moving_to')
  if moving_to then fact(lines, 'moving', 'to ' .. plain(moving_to) .. ' partitions: `sessioncache repartition` ends it') end
  fact(lines, 'session keys', string.format('%d wait for SQL', sum.dirty))
  fact(lines, 'pending', string.format('%.0f ops, %s', sum.ops, bytes_of(sum.bytes)))
  fact(lines, 'oldest', sum.dirty > 0 and 'waits for ' .. lasting(sum.age) or 'nothing waits')
  fact(lines, 'dead letters', integer(sum.dead))
  fact(lines, 'holds', integer(sum.holds))
  fact(lines, 'drainers', string.format('about, or nudged, in %d partitions', sum.woken))
  if last > first then
    fact(lines, 'schedule', value(prefix .. ':schedule') and 'runs' or 'nobody runs it')
    local reported = count('ZCOUNT', prefix .. ':processes', integer(at_ms - 60000), '+inf')
    fact(lines, 'processes', integer(reported) .. ' reported within a minute')
  end
  fact(lines, 'memory', memory())
  return lines
end

-- sc_lanes: what waits by lane. The number of lanes (4), as in the settings, is the argument.
local function lanes(keys, args)
  local prefix, first, last = partitions_asked_for(keys)
  local of, at_ms, sums_of = number_of(args[1], 'lanes', 4, 1000), now_ms(), {}
  for partition = first, last do
    local lane = partition % of
    sums_of[lane] = sums_of[lane] or {}
    sum_up(sums_of[lane], looked_at(prefix, partition, at_ms))
  end
  local rows, lines = {}, {}
  for lane = 0, of - 1 do
    local sum = sums_of[lane]
    if sum then
      rows[#rows + 1] = {'lane ' .. lane, sum.dirty .. ' session keys', string.format('%.0f ops', sum.ops), bytes_of(sum.bytes),
        sum.dirty > 0 and 'the oldest for ' .. lasting(sum.age) or 'nothing waits'}
    end
  end
  add_table(lines, rows)
  return lines
end

-- Dirty session keys of a partition, oldest first: those whose age is known, then others. Each: {key, since or nil}.
local function dirty_sessions(prefix, partition, most)
  local found, known_age = {}, {}
  local ages = list('ZRANGE', named(prefix, partition, 'oldest'), 0, most - 1, 'WITHSCORES')
  for n = 1, #ages, 2 do
    found[#found + 1], known_age[ages[n]] = {ages[n], tonumber(ages[n + 1])}, true
  end
  for _, session_key in ipairs(list('ZRANGE', named(prefix, partition, 'dirty'), 0, most - 1)) do
    if #found < most and not known_age[session_key] then found[#found + 1] = {session_key} end
  end
  return found
end

local function dirty_row(prefix, partition, session_key, since, at_ms)
  local due = score(named(prefix, partition, 'dirty'), session_key)
  local claimed = due and due > at_ms and 'claimed' or 'due'
  return {string.format('  %d ops', count('LLEN', named(prefix, partition, 'pending', session_key))),
    bytes_of(bytes_waiting(named(prefix, partition, 'backlog'), session_key)),
    since and lasting(at_ms - since) or 'age unknown', due and claimed or 'not in the index', plain(session_key)}
end

-- The partitions where something waits, that of the oldest first; how many session keys wait in all.
local function dirty_partitions(prefix, first, last, at_ms)
  local found, waiting = {}, 0
  for partition = first, last do
    local one = looked_at(prefix, partition, at_ms)
    if one.dirty > 0 then found[#found + 1], waiting = one, waiting + one.dirty end
  end
  table.sort(found, function(a, b)
    if a.age ~= b.age then return a.age > b.age end
    return a.partition < b.partition
  end)
  return found, waiting
end

-- The line of a partition, and those of its oldest session keys; how many these are.
local function add_partition(lines, prefix, one, most, at_ms)
  lines[#lines + 1] = line(string.format('partition %03d: %d session keys, %.0f ops, %s, the oldest for %s', one.partition,
    one.dirty, one.ops, bytes_of(one.bytes), lasting(one.age)))
  local rows = {}
  for _, session in ipairs(dirty_sessions(prefix, one.partition, most)) do
    rows[#rows + 1] = dirty_row(prefix, one.partition, session[1], session[2], at_ms)
  end
  add_table(lines, rows)
  return #rows
end

-- sc_dirty: the partitions where something waits, that of the oldest first, and their session keys, oldest first.
-- The argument: session keys (20; at most 1000), which bounds the partitions too.
local function dirty(keys, args)
  local prefix, first, last = partitions_asked_for(keys)
  local most, at_ms, lines, shown_keys = number_of(args[1], 'session keys', 20, MOST_SESSIONS), now_ms(), {}, 0
  local found, waiting = dirty_partitions(prefix, first, last, at_ms)
  for _, one in ipairs(found) do
    if shown_keys >= most then break end
    shown_keys = shown_keys + add_partition(lines, prefix, one, most - shown_keys, at_ms)
  end
  if waiting > shown_keys then lines[#lines + 1] = line(string.format('and %d session keys more', waiting - shown_keys)) end
  if #lines == 0 then lines[1] = line('nothing waits') end
  return lines
end

-- sc_dead: the newest dead letters, by partition: reason, age, kind, session key, op. The argument: letters (20; at most 1000,
-- and 4 MiB of them).
local function dead(keys, args)
  local prefix, first, last = partitions_asked_for(keys)
  local most, at_ms, rows, all, lines = number_of(args[1], 'letters', 20, MOST_SESSIONS), now_ms(), {}, 0, {}
  local bytes_left = MOST_COPIED
  for partition = first, last do
    local key = named(prefix, partition, 'dead')
    all = all + count('LLEN', key)
    local letters, bytes = walk(key, -1, -1, most - #rows, bytes_left)
    bytes_left = bytes_left - bytes
    for _, letter in ipairs(letters) do
      local at, reason, session_key, element = string.match(letter, '^(%d+) (%S*) ([^\n]*)\n(.*)$')
      local op = op_row(element or letter, at_ms)
      rows[#rows + 1] = {string.format('%03d', partition), plain(reason or '?'),
        at and lasting(at_ms - tonumber(at)) .. ' ago' or '?', op[2] == '' and '?' or op[2], plain(session_key or '?'), op[5]}
    end
  end
  add_table(lines, rows)
  if all > #rows then lines[#lines + 1] = line(string.format('and %d more', all - #rows)) end
  if #lines == 0 then lines[1] = line('there is none') end
  return lines
end

local function register(name, show_, says)
  local function called(keys, args)
    fill_escapes()
    steps_left = MOST_STEPS
    return show_(keys, args)
  end
  redis.register_function({function_name = name, callback = guarded(called), flags = {'no-writes'}, description = says})
end

register('sc_show', show, 'Where a session stands: SESSION_KEY')
register('sc_tail', tail, 'The newest messages, as JSON lines: SESSION_KEY [messages] [bytes]')
register('sc_pending', pending, 'The ops that wait for SQL: SESSION_KEY [ops]')
register('sc_summary', summary, 'Everything at a glance')
register('sc_lanes', lanes, 'What waits by lane: [lanes]')
register('sc_dirty', dirty, 'Partitions and session keys that wait for SQL, oldest first: [session keys]')
register('sc_dead', dead, 'The newest dead letters: [letters]')
