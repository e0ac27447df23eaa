-- update: what is known of the current session besides its messages.
-- KEYS  as every change
-- ARGV  as every change, then payload (opaque, for the store), activity ('1': it is activity), the largest number of fields
--       then triples: verb ('set', 'remove', 'add', or 'reach': set to a seq), field of meta, value
-- Reply {'miss'} | {'moved', current session id, last deleted session id} | {'conflict', version} | {'lost'} | {'full', bound, what waits}
--       {'busy'} | {'large'}: too many fields, or too much in a counter | {'beyond', version}: no seq yet | {'ok', ring, version}
local LARGEST = 2 ^ 52  -- sums stay exact in doubles
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
local first = known(row[OPS], ARGV[9])
if first then return {'ok', 0, integer(first)} end
local refusal = barred(row, 1)
if refusal then return refusal end
local added = 0
for i = 14, #ARGV, 3 do
  local there = redis.call('HGET', KEYS[1], ARGV[i + 1])
  if ARGV[i] == 'add' and not counter(ARGV[i + 1]) then return broken() end
  if ARGV[i] == 'add' and counter(ARGV[i + 1]) + tonumber(ARGV[i + 2]) > LARGEST then return {'large'} end
  if ARGV[i] == 'reach' and tonumber(ARGV[i + 2]) > tonumber(row[VERSION]) then return {'beyond', row[VERSION]} end
  if ARGV[i] == 'remove' then added = added - (there and 1 or 0) else added = added + (there and 0 or 1) end
end
if added > 0 and redis.call('HLEN', KEYS[1]) + added > tonumber(ARGV[13]) then return {'large'} end
local at_ms = now_ms()
local version, ring = log_op(row, 'update', ARGV[6], ARGV[12] .. ARGV[11], at_ms)
for i = 14, #ARGV, 3 do
  if ARGV[i] == 'set' or ARGV[i] == 'reach' then
    redis.call('HSET', KEYS[1], ARGV[i + 1], ARGV[i + 2])
  elseif ARGV[i] == 'add' then
    redis.call('HSET', KEYS[1], ARGV[i + 1], integer(counter(ARGV[i + 1]) + tonumber(ARGV[i + 2])))
  else
    redis.call('HDEL', KEYS[1], ARGV[i + 1])
  end
end
if ARGV[12] == '1' then redis.call('HSET', KEYS[1], 'updated_ms', integer(at_ms)) end
accessed(at_ms)
return {'ok', ring, integer(version)}
