-- Functions about one session: sc_show, sc_tail, sc_pending.

-- A replica has the keys, but is another run of Redis than the one that they were written under.
local function is_replica()
  return string.find(redis.call('INFO', 'replication'), 'role:slave', 1, true)
end

-- Why there is no valid hot copy.
local function missing(meta, history)
  local run, counted = redis.pcall('HGET', meta, 'run'), redis.pcall('HGET', meta, 'count')
  local length = redis.pcall('LLEN', history)
  if type(run) == 'table' or type(length) == 'table' then return 'a key of it is of another type' end
  if not run and length == 0 then return 'no copy is here' end
  if not run then return 'its meta is gone' end
  if run ~= run_id() and is_replica() then return 'this is a replica; ask its primary' end
  if run ~= run_id() then return 'it was published under an earlier run of Redis' end
  if counted ~= integer(length) then return 'its history has ' .. length .. ' messages, not ' .. plain(counted or 'any') end
  return 'it holds garbage'
end

local MOMENTS = {created = 'created_ms', updated = 'updated_ms', accessed = 'accessed_ms', ['last message'] = 'last_message_ms'}

local function show_copy(lines, row, asked)
  local function told(name, field)
    local found = redis.call('HGET', asked.meta, field)
    if found and found ~= '' and found ~= '0' then fact(lines, name, plain(MOMENTS[name] and instant(found) or found)) end
  end
  fact(lines, 'session', row[SESSION])
  told('owner', 'owner')
  told('title', 'title')
  fact(lines, 'version', row[VERSION])
  fact(lines, 'revision', plain(row[REVISION]))
  fact(lines, 'messages', string.format('%s in all, the newest %s here, %s bytes', row[TOTAL], row[COUNT], row[BYTES]))
  told('consolidated', 'consolidated_seq')
  for _, name in ipairs({'created', 'updated', 'accessed', 'last message'}) do told(name, MOMENTS[name]) end
  for _, flag in ipairs({'archived', 'important', 'suspended'}) do
    if redis.call('HGET', asked.meta, flag) == '1' then fact(lines, 'flag', flag) end
  end
end

local function show_log(lines, asked, at_ms)
  local ops, since, due = count('LLEN', asked.pending), score(asked.oldest, asked.session_key), score(asked.dirty, asked.session_key)
  fact(lines, 'pending', ops == 0 and 'nothing' or string.format('%d ops, %s%s', ops,
    bytes_of(bytes_waiting(asked.backlog, asked.session_key)), since and ', the oldest for ' .. lasting(at_ms - since) or ''))
  if due then
    fact(lines, 'dirty', due > at_ms and 'claimed, due again in ' .. lasting(due - at_ms) or 'due for ' .. lasting(at_ms - due))
  end
end

-- Who has the right that a string key is: it was given by a run of Redis, but for the doorbell.
local function show_right(lines, name, key, nobody, somebody)
  local holder = value(key)
  local run = holder and string.match(holder, '^(%w+):')
  if not holder then return fact(lines, name, nobody) end
  if run and run ~= run_id() then return fact(lines, name, nobody .. ' (what is left is of an earlier run of Redis)') end
  fact(lines, name, somebody .. ' ' .. expires(count('PTTL', key)))
end

local MOST_HOLDS = 1000

local function show_holds(lines, asked, at_ms)
  local found = list('ZRANGEBYSCORE', asked.holds, '(' .. integer(at_ms), '+inf', 'WITHSCORES', 'LIMIT', 0, MOST_HOLDS)
  for n = 1, #found, 2 do
    local session_key, name = string.match(found[n], '^([^\n]*)\n(.*) %S+$')
    if session_key == asked.session_key then
      fact(lines, 'hold', plain(name) .. ' ' .. expires(tonumber(found[n + 1]) - at_ms))
    end
  end
  if #found == 2 * MOST_HOLDS then fact(lines, 'hold', 'there are more, which were not looked at') end
end

-- sc_show: where a session stands. KEYS and SESSION_KEY as above.
local function show(keys, args)
  local asked = session_asked_for(keys, args)
  local lines, at_ms = {}, now_ms()
  local row = hot(asked.meta, asked.history)
  fact(lines, 'session key', plain(asked.session_key))
  fact(lines, 'partition', string.format('%03d', asked.partition))
  if row and row[SESSION] == '' then
    fact(lines, 'state', 'hot: there is no session under this key')
  elseif row then
    fact(lines, 'state', 'hot')
    show_copy(lines, row, asked)
  else
    fact(lines, 'state', 'miss: ' .. missing(asked.meta, asked.history) .. '; the next read brings it from SQL')
  end
  if row then fact(lines, 'hot', expires(count('PTTL', asked.meta))) end
  show_log(lines, asked, at_ms)
  show_right(lines, 'lease', asked.lease, 'nobody hydrates it', 'somebody hydrates it, at most')
  show_right(lines, 'turn', asked.turn, 'nobody has it', 'somebody has it')
  show_holds(lines, asked, at_ms)
  show_right(lines, 'drainer', asked.wake, 'none was nudged lately', 'one is about, or nudged,')
  return lines
end

local MOST_MESSAGES, MOST_BYTES = 1000, 262144  -- to show a quarter of a megabyte takes tens of milliseconds at worst
local MOST_COPIED = 4194304  -- of elements of which only the header is shown
local SHOWN_OF_GARBAGE = 200

-- What a line says of an element: the header, then what it holds, if that can be said in so many bytes.
local function message_line(element, most_bytes)
  local seq, at, id, first = string.match(element, '^(%d+) (%d+) ([^\n]+)\n()')
  local moment = at and #seq <= 16 and instant(at)
  if not moment then
    return string.format('{"readable": false, "bytes": %d, "raw": %s}', #element, quoted(string.sub(element, 1, SHOWN_OF_GARBAGE)))
  end
  local head = string.format('{"seq": %s, "id": %s, "created_at": "%s", ', string.match(seq, '^0*(%d+)$'), quoted(id), moment)
  local text, why = nil, TOO_MUCH
  if #element <= most_bytes then text, why = json(string.sub(element, first)) end
  if text then return head .. '"data": ' .. text .. '}' end
  local size = string.format('"bytes": %d', #element - first + 1)
  if why == TOO_MUCH then return head .. '"shown": false, ' .. size .. '}' end
  local raw = quoted(string.sub(element, first, first + SHOWN_OF_GARBAGE - 1))
  return head .. '"readable": false, ' .. size .. ', "raw": ' .. raw .. '}'
end

-- A line for an element, whatever it holds; a mere number of bytes where the call may do no more.
local function shown_element(element, most_bytes)
  local done, found = pcall(message_line, element, most_bytes)
  return line(done and found or string.format('{"shown": false, "bytes": %d}', #element))
end

-- Elements of a list one by one, from either end, until so many are looked at, or so many bytes: at least one. How many bytes.
local function walk(key, first, step, most, most_bytes)
  local found, bytes, at = {}, 0, first
  while #found < most and bytes < most_bytes do
    local element = said('LINDEX', key, at)
    if not element then break end
    if #found > 0 and bytes + #element > most_bytes then break end
    found[#found + 1], bytes, at = element, bytes + #element, at + step
  end
  return found, bytes
end

-- sc_tail: the newest messages of the hot copy, oldest first, a JSON object on a line.
-- After SESSION_KEY: messages (10; at most 1000), bytes (65536; at most 262144): older ones are left out. Of a message that
-- alone is larger, or has too many values, the size is shown.
local function tail(keys, args)
  local asked, more = session_asked_for(keys, args)
  local most = number_of(more[1], 'messages', 10, MOST_MESSAGES)
  local most_bytes = number_of(more[2], 'bytes', 65536, MOST_BYTES)
  if not hot(asked.meta, asked.history) then
    refuse('there is no valid hot copy (' .. missing(asked.meta, asked.history) .. '); the next read brings it from SQL')
  end
  local newest = walk(asked.history, -1, -1, most, most_bytes)
  local lines = {}
  for n, element in ipairs(newest) do lines[#newest - n + 1] = shown_element(element, most_bytes) end
  return lines
end

local function op_row(element, at_ms)
  local version, op_id, left, at, kind, session_id, first = string.match(element, '^(%d+) (%S+) (%d+) (%d+) (%S+) ([^\n]+)\n()')
  if not version then return {'garbage', '', '', bytes_of(#element), quoted(string.sub(element, 1, SHOWN_OF_GARBAGE))} end
  local group = left == '0' and '' or ', ' .. left .. ' more of its group'
  return {plain(version), plain(kind), lasting(at_ms - tonumber(at)) .. ' ago', bytes_of(#element - first + 1),
    'op ' .. plain(op_id) .. ' of session ' .. plain(session_id) .. group}
end

-- sc_pending: the ops of a session key that wait for SQL, oldest first: version, kind, age, size, op id, session id.
-- After SESSION_KEY: ops (20; at most 1000, and 4 MiB of them).
local function pending(keys, args)
  local asked, more = session_asked_for(keys, args)
  local most = number_of(more[1], 'ops', 20, MOST_MESSAGES)
  local at_ms, rows, lines = now_ms(), {}, {}
  local ops = walk(asked.pending, 0, 1, most, MOST_COPIED)
  for _, element in ipairs(ops) do rows[#rows + 1] = op_row(element, at_ms) end
  add_table(lines, rows)
  local left = count('LLEN', asked.pending) - #rows
  if left > 0 then lines[#lines + 1] = line(string.format('and %d more', left)) end
  if #lines == 0 then lines[1] = line('nothing waits') end
  return lines
end
