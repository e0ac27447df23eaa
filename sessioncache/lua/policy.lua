-- What scripts that ask for the reset policy have after common.lua; `rows` in conversation/policy.py writes the arguments:
--   number of rules, number of policies,
--   for each rule: 'default', 'platform:<name>' or 'type:<name>', and the number of its policy, from 1,
--   for each policy: idle_ms ('' for no such limit), daily boundaries oldest first, parted by spaces ('' for none).

-- The newest boundary that at_ms has reached; nothing where at_ms lies outside the days that were sent.
local function newest(boundaries, at_ms)
  local reached, ahead
  for text in string.gmatch(boundaries, '%S+') do
    local boundary = tonumber(text)
    if boundary <= at_ms then reached = boundary else ahead = true end
  end
  return ahead and reached
end

-- Whether a session is over: 'suspended', 'idle', 'daily' or false; 'clock' where the client sent the days around another
-- time than Redis's, and should send those around at_ms. Then the position after the arguments, which begin at `first`.
-- Platform, chat type, updated_ms and suspended as they are in meta, absent (false) or empty too.
local function due(args, first, at_ms, platform, chat_type, updated_ms, suspended)
  local rules, policies, number = first + 2, first + 2 + 2 * tonumber(args[first]), {}
  local after = policies + 2 * tonumber(args[first + 1])
  for i = rules, policies - 1, 2 do number[args[i]] = tonumber(args[i + 1]) end
  local chosen = number['platform:' .. (platform or '')] or number['type:' .. (chat_type or '')] or number['default']
  local idle_ms, boundaries = args[policies + 2 * chosen - 2], args[policies + 2 * chosen - 1]
  if suspended and suspended ~= '' then return 'suspended', after end
  if idle_ms ~= '' and at_ms > tonumber(updated_ms) + tonumber(idle_ms) then return 'idle', after end
  if boundaries == '' then return false, after end
  local boundary = newest(boundaries, at_ms)
  if not boundary then return 'clock', after end
  return tonumber(updated_ms) < boundary and 'daily', after
end

