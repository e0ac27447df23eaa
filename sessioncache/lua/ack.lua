-- ack: removes from pending logs what the store has, as long as the head of a log is among it.
-- Begins with LTRIM or ZREM, so that it runs when Redis is full. A late or repeated ack changes nothing.
-- KEYS  dirty dead backlog oldest, then for each session key: pending meta history lease
-- ARGV  for each session key: session_key, version in the store, drop ('1': the hot copy is wrong), number of refused ops,
--       number of applied ops, then pairs of refused op and reason, then the applied ops; an op is named '<version> <op id>'
-- Reply the number of ops removed, for each session key
-- Where these are of other types, nothing is removed.
redis.call('HLEN', KEYS[3])
redis.call('ZCARD', KEYS[4])
local reply, arg, at_ms = {}, 1, integer(now_ms())
for k = 5, #KEYS, 4 do
  local pending, meta, history, lease = KEYS[k], KEYS[k + 1], KEYS[k + 2], KEYS[k + 3]
  local session_key, stored, drop = ARGV[arg], tonumber(ARGV[arg + 1]), ARGV[arg + 2] == '1'
  local refused, applied = tonumber(ARGV[arg + 3]), tonumber(ARGV[arg + 4])
  if refused > 0 then redis.call('LLEN', KEYS[2]) end  -- where the dead letters are no list, nothing is removed
  local verdict = {}
  arg = arg + 5
  for i = arg, arg + 2 * refused - 1, 2 do verdict[ARGV[i]] = ARGV[i + 1] end
  arg = arg + 2 * refused
  for i = arg, arg + applied - 1 do verdict[ARGV[i]] = true end
  arg = arg + applied

  local removed, bytes, letters, more = 0, 0, {}, next(verdict) ~= nil
  while more do
    local page = redis.call('LRANGE', pending, removed, removed + 99)
    more = #page == 100
    for _, element in ipairs(page) do
      local found = verdict[string.match(element, '^(%d+ %S+) ')]
      if not found then
        more = false
        break
      end
      removed, bytes = removed + 1, bytes + #element
      if found ~= true then letters[#letters + 1] = at_ms .. ' ' .. found .. ' ' .. session_key .. '\n' .. element end
    end
  end
  if removed > 0 then redis.call('LTRIM', pending, removed, -1) end
  if redis.call('ZREM', KEYS[1], session_key) == 1 or removed > 0 then
    local left = redis.pcall('LLEN', pending)  -- of a key that is no list nothing is left to drain
    if type(left) == 'number' and left > 0 then redis.call('ZADD', KEYS[1], at_ms, session_key) end
  end
  waits_no_more(KEYS[3], KEYS[4], pending, session_key, removed, bytes)
  push(KEYS[2], letters)
  local found = redis.pcall('HGET', meta, 'version')
  local version = not found and stored or tonumber(type(found) == 'string' and found)
  if drop or not version or stored > version then redis.call('DEL', meta, history, lease) end
  reply[#reply + 1] = removed
end
nothing_waits(KEYS[1], KEYS[3], KEYS[4])
return reply
