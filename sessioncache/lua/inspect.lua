-- inspect: what stands in Redis under a session key. Changes nothing, and is no access.
-- KEYS  meta history pending dirty backlog oldest dead lease turn holds
-- ARGV  session_key limit: how many of the partition's newest dead letters, and of its holds, are looked at
-- Reply {now, what meta is: 'hot', 'other' (no valid hot copy) or 'none', its TTL, hot messages, pending ops, their bytes,
--        since when the first of them waits, when the key is due for a claim ('' for never), dead letters of the key,
--        what is left of the lease and of the turn (0 for none)},
--       {hold, its end, …}, {field of meta, value, …}; times in milliseconds
local at_ms = now_ms()
local function safely(...)
  local found = redis.pcall(...)
  return (type(found) ~= 'table' or not found.err) and found or nil  -- of a key of another type: nothing
end
local row = hot(KEYS[1], KEYS[2])
local copy = row and 'hot' or redis.call('EXISTS', KEYS[1]) == 1 and 'other' or 'none'
local _, bytes = ops_and_bytes(safely('HGET', KEYS[5], '=' .. ARGV[1]) or nil)
local dead, limit = 0, tonumber(ARGV[2])
for page = 0, limit - 1, 10 do
  local letters = safely('LRANGE', KEYS[7], -page - 10, -page - 1) or {}
  for _, letter in ipairs(letters) do
    if string.match(letter, '^%d+ %S+ ([^\n]*)\n') == ARGV[1] then dead = dead + 1 end
  end
  if #letters < 10 then break end
end
local holds, found = {}, safely('ZREVRANGE', KEYS[10], 0, limit - 1, 'WITHSCORES') or {}
for i = 1, #found, 2 do
  if string.sub(found[i], 1, #ARGV[1] + 1) == ARGV[1] .. '\n' and tonumber(found[i + 1]) > at_ms then
    holds[#holds + 1] = string.sub(found[i], #ARGV[1] + 2)
    holds[#holds + 1] = integer(tonumber(found[i + 1]))
  end
end
local state = {
  integer(at_ms), copy, redis.call('PTTL', KEYS[1]), row and row[COUNT] or 0, safely('LLEN', KEYS[3]) or 0, bytes,
  safely('ZSCORE', KEYS[6], ARGV[1]) or '', safely('ZSCORE', KEYS[4], ARGV[1]) or '', dead,
  math.max(0, redis.call('PTTL', KEYS[8])), math.max(0, redis.call('PTTL', KEYS[9])),
}
return {state, holds, row and row[SESSION] ~= '' and shown({}) or {}}
