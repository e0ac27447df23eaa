-- open: the current session of a key, as far as the reset policy lets it go on; or a new one.
-- KEYS  as every change, then held
-- ARGV  as every change (session_id: that of a new one; hold_ms always), then verb: 'get' only looks; 'open' begins a session
--       where there is none, or where the policy ends the current one; 'ensure' heeds no policy; 'create' only begins
--       touch_ms, touch op id, owner ('' for any), payload (opaque, for the store), number of fields,
--       pairs: field of meta, value; then the policies, as policy.lua says
-- Reply {'miss'} | {'full', bound, what waits} | {'none'} | {'other'}: another owner's | {'there'}: create, but there is one
--       {'clock', milliseconds}: the policies were not computed for this time
--       {'again'}: this began a session that is not current any more; it wants another id
--       {'ok', ring, had activity, why: 'found', 'new' or the reason of a reset, field of meta, value, …}
local row = hot(KEYS[1], KEYS[2])
if not row then return {'miss'} end
local verb, owner, fields, at_ms = ARGV[11], ARGV[14], 17, now_ms()
local policies = fields + 2 * tonumber(ARGV[16])
if known(row[OPS], ARGV[9]) then
  if row[SESSION] ~= ARGV[6] then return {'again'} end
  local answer = began(ARGV[9]) or '0new'
  return shown({'ok', 0, string.sub(answer, 1, 1), string.sub(answer, 2)})
end
local reason = 'new'
if row[SESSION] ~= '' then
  if verb == 'create' then return {'there'} end
  if owner ~= '' and row[OWNER] ~= owner then return {'other'} end
  reason = 'found'
  if verb == 'open' then
    local is = redis.call('HMGET', KEYS[1], 'platform', 'chat_type', 'updated_ms', 'suspended')
    if not tonumber(is[3]) then return broken() end
    local why = due(ARGV, policies, at_ms, is[1] or '', is[2] or '', tonumber(is[3]), is[4] == '1')
    if why == 'clock' then return {'clock', integer(at_ms)} end
    if why and (why == 'suspended' or not held(KEYS[9], KEYS[10], ARGV[5], at_ms, ARGV[10])) then reason = why end
  end
elseif verb == 'get' then
  return {'none'}
end
if reason == 'found' then
  local ring = touch(row, at_ms, ARGV[12], ARGV[13], ARGV[1], ARGV[2], ARGV[3], ARGV[5])
  return shown({'ok', ring, '0', reason})
end
local refusal = crowded(ARGV[3], ARGV[5], 1)
if refusal then return refusal end
local ring, had = begin(row, ARGV[6], ARGV[15], fields, policies - 1, at_ms, reason)
return shown({'ok', ring, had, reason})
