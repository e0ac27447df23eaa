-- edit: one message of the current session gets another content, or goes.
-- KEYS  as every change
-- ARGV  as every change, then kind ('edit' or 'remove'), message id, msgpack ('' for remove), and the revision under which the
--       message was seen in the store, below the hot window ('' if it was not looked for)
-- Reply {'miss'} | {'moved', current session id, last deleted session id} | {'conflict', version} | {'lost'} | {'full', bound, what waits}
--       {'none'} | {'below', revision}: look for it in the store | {'ok', ring, seq, milliseconds}; '' where only the store has it
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
local kind, message_id, count = ARGV[11], ARGV[12], tonumber(row[COUNT])

-- Where it stands, from the newest message on: its index, its element, its seq and time.
local index, element, seq, ms
for last = count - 1, 0, -CHUNK do
  local first = math.max(0, last - CHUNK + 1)
  local page = redis.call('LRANGE', KEYS[2], first, last)
  for n = #page, 1, -1 do
    local its_seq, its_ms, its_id = string.match(page[n], '^(%d+) (%d+) ([^\n]*)\n')
    if not its_id then return broken() end
    if its_id == message_id then
      index, element, seq, ms = first + n - 1, page[n], its_seq, its_ms
      break
    end
  end
  if index then break end
end

if known(row[OPS], ARGV[9]) then return {'ok', 0, seq or '', ms or ''} end
local refusal = barred(row, 1)
if refusal then return refusal end
if not index then
  if tonumber(row[TOTAL]) == count then return {'none'} end
  if ARGV[14] ~= row[REVISION] then return {'below', row[REVISION]} end
end
local at_ms = now_ms()
local payload = kind == 'edit' and message_id .. '\n' .. ARGV[13] or message_id
local _, ring = log_op(row, kind, ARGV[6], payload, at_ms)
local bytes = tonumber(row[BYTES]) - (element and #element or 0)
if kind == 'edit' then
  if index then
    local edited = seq .. ' ' .. ms .. ' ' .. message_id .. '\n' .. ARGV[13]
    redis.call('LSET', KEYS[2], index, edited)
    bytes = bytes + #edited
  end
else
  if index then
    redis.call('LSET', KEYS[2], index, '')
    redis.call('LREM', KEYS[2], 1, '')
    redis.call('HSET', KEYS[1], 'count', count - 1)
  end
  redis.call('HSET', KEYS[1], 'total', integer(tonumber(row[TOTAL]) - 1))
end
redis.call('HSET', KEYS[1], 'revision', ARGV[9], 'bytes', integer(bytes))
accessed(at_ms)
return {'ok', ring, seq or '', ms or ''}
