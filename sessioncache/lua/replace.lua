-- replace: the whole history of the current session by other messages, all at once.
-- KEYS  as every change
-- ARGV  as every change, then window window_bytes, then '<message id>\n<msgpack>' for each message
-- Reply {'miss'} | {'moved', current session id, last deleted session id} | {'conflict', version} | {'lost'} | {'full', bound, what waits}
--       {'ok', version of the replace (the messages have the next ones), ring, milliseconds}
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
local at_ms, MESSAGES = now_ms(), 13
local first, added = known(row[OPS], ARGV[9]), #ARGV - MESSAGES + 1
if first then
  -- They were all accepted at one time, which any of them that still stands tells.
  local seq, ms = string.match(redis.call('LINDEX', KEYS[2], 0) or '', '^(%d+) (%d+) ')
  if not seq or tonumber(seq) <= first or tonumber(seq) > first + added then ms = integer(at_ms) end
  return {'ok', integer(first), 0, ms}
end
local refusal = barred(row, added + 1)
if refusal then return refusal end

local version = tonumber(row[VERSION]) + 1
local at = integer(at_ms)
local elements, log, bytes = {}, {logged(integer(version), ARGV[9], added, at, 'replace', ARGV[6], '')}, 0
for n = 1, added do
  local seq, message = integer(version + n), ARGV[MESSAGES + n - 1]
  elements[n] = seq .. ' ' .. at .. ' ' .. message
  log[n + 1] = logged(seq, ARGV[9], added - n, at, 'append', ARGV[6], message)
  bytes = bytes + #elements[n]
end
local ring = announce(ARGV[5], at, ARGV[2], log)
push(KEYS[3], log)
redis.call('DEL', KEYS[2])
push(KEYS[2], elements)
local count
count, bytes = trimmed(KEYS[2], added, bytes, tonumber(ARGV[11]), tonumber(ARGV[12]))
redis.call('HSET', KEYS[1], 'version', integer(version + added), 'revision', ARGV[9], 'count', count, 'total', added,
  'bytes', integer(bytes), 'ops', remember(row[OPS], {ARGV[9] .. ':' .. integer(version)}, tonumber(ARGV[4])))
if added > 0 then redis.call('HSET', KEYS[1], 'updated_ms', at, 'last_message_ms', at) end
accessed(at_ms)
return {'ok', integer(version), ring, at}
