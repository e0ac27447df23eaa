-- append: messages to the current session of a key, all or none of them.
-- KEYS  as every change
-- ARGV  as every change (op_id is not used), then kind ('append', or 'event': no activity) window window_bytes
--       then, for each message: op_id and '<message id>\n<msgpack>'. Messages without ids of their own share an op id.
-- Reply {'miss'} | {'moved', current session id, last deleted session id} | {'conflict', version} | {'lost'} | {'full', bound, what waits}
--       {'ok', version before, version, revision, total, ring, seq, milliseconds, seq, milliseconds, …}
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
local kind, MESSAGES = ARGV[11], 14

-- Decide: which messages are new, and what is answered for the others.
local at, version, fresh, seqs = integer(now_ms()), tonumber(row[VERSION]), {}, {}
local reply = {'ok', row[VERSION], row[VERSION], row[REVISION], row[TOTAL], 0}
local op_id, first, oldest
local all = #ARGV > MESSAGES + 8 and all_known(row[OPS])  -- many ids: one pass over what is known instead of one for each
for i = MESSAGES, #ARGV, 2 do
  if ARGV[i] ~= op_id then
    op_id = ARGV[i]
    if all then first = all[op_id] else first = known(row[OPS], op_id) end
  elseif first then
    first = first + 1
  end
  if first and first > version then return broken() end
  if first then
    reply[#reply + 1] = integer(first)
    reply[#reply + 1] = false
    oldest = math.min(oldest or first, first)
  else
    fresh[#fresh + 1] = i
    seqs[#fresh] = integer(version + #fresh)
    reply[#reply + 1] = seqs[#fresh]
    reply[#reply + 1] = at
  end
end

-- When the messages that are repeats were accepted. They stand within few ops of the end of the hot copy; for one that was
-- removed since, the time of this call is as good an answer as there is.
if oldest then
  local accepted = {}
  for _, element in ipairs(redis.call('LRANGE', KEYS[2], oldest - version - 1, -1)) do
    local seq, ms = string.match(element, '^(%d+) (%d+) ')
    if seq then accepted[seq] = ms end
  end
  for n = 8, #reply, 2 do reply[n] = reply[n] or accepted[reply[n - 1]] or at end
end

if #fresh > 0 then
  local refusal = barred(row, #fresh)
  if refusal then return refusal end

  -- Act.
  local elements, log, added, bytes = {}, {}, {}, tonumber(row[BYTES])
  for n, i in ipairs(fresh) do
    local seq, message = seqs[n], ARGV[i + 1]
    elements[n] = seq .. ' ' .. at .. ' ' .. message
    log[n] = logged(seq, ARGV[i], #fresh - n, at, kind, ARGV[6], message)
    bytes = bytes + #elements[n]
    if n == 1 or ARGV[fresh[n - 1]] ~= ARGV[i] then added[#added + 1] = ARGV[i] .. ':' .. seq end
  end
  reply[3], reply[5] = seqs[#fresh], integer(tonumber(row[TOTAL]) + #fresh)
  reply[6] = announce(ARGV[5], at, ARGV[2], log)
  push(KEYS[2], elements)
  push(KEYS[3], log)
  local count
  count, bytes = trimmed(KEYS[2], tonumber(row[COUNT]) + #fresh, bytes, tonumber(ARGV[12]), tonumber(ARGV[13]))
  redis.call('HSET', KEYS[1], 'version', reply[3], 'count', count, 'total', reply[5], 'bytes', integer(bytes),
    'ops', remember(row[OPS], added, tonumber(ARGV[4])), 'last_message_ms', at, 'accessed_ms', at, 'touched_ms', at,
    kind == 'append' and 'updated_ms' or 'accessed_ms', at)
end
slide(KEYS[1], KEYS[2], ARGV[1])
return reply
