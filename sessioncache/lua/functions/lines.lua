-- What functions have in common: how they are called, and what they print. They reply a list of lines as status replies, which
-- redis-cli prints as they are, on a terminal too: no line holds what a terminal would obey, or a line break.
--
-- A function is called for everything of one Redis, or by the name of one key, as a Redis Cluster wants it:
--   FCALL_RO sc_show 0 SESSION_KEY                     the prefix is sc; the partition is found as clients find it
--   FCALL_RO sc_show 1 'app:{000}:layout' SESSION_KEY  another prefix: that of the key
--   FCALL_RO sc_show 1 'sc:{020}:meta:SESSION_KEY'     one session, and nothing outside of its partition
--   FCALL_RO sc_dirty 1 'sc:{020}:dirty'               one partition
-- This is the one place in Lua that builds names of keys: as sessioncache/keys.py does.
local NAMES_SESSION = {meta = true, history = true, pending = true, lease = true, turn = true}

local function refuse(sentence)
  error({err = 'ERR ' .. sentence}, 0)
end

local OF_CLUSTER = 'ERR a Redis Cluster finds a function by a key: name one, as `sessioncache keys KEY` prints it, like '
  .. "FCALL_RO sc_show 1 'sc:{020}:meta:KEY' or FCALL_RO sc_dirty 1 'sc:{020}:dirty', with redis-cli -c"

local function of_cluster(text)
  return string.find(text, 'in a cluster node', 1, true) or string.find(text, 'to the same slot', 1, true)
end

-- What a function replies, whatever happens in it.
local function guarded(show)
  return function(keys, args)
    local done, found = pcall(show, keys, args)
    if done then return found end
    local text = type(found) == 'table' and found.err or tostring(found)  -- Redis's pcall gives a text for an error reply
    if not string.find(text, '^%u+ ') then text = 'ERR ' .. text end
    return {err = of_cluster(text) and OF_CLUSTER or text}
  end
end

-- A number among the arguments.
local function number_of(text, what, default, most)
  if not text or text == '' then return default end
  local found = #text < 10 and string.find(text, '^%d+$') and tonumber(text)
  if not found or found < 1 or found > most then
    refuse(string.format('%s must be a whole number from 1 to %d, not %s', what, most, string.sub(quoted(text), 1, 80)))
  end
  return found
end

local function crc32(text)
  local crc = bit.bnot(0)
  for n = 1, #text do
    crc = bit.bxor(crc, string.byte(text, n))
    for _ = 1, 8 do crc = bit.bxor(bit.rshift(crc, 1), bit.band(crc, 1) == 1 and 0xedb88320 or 0) end
  end
  return bit.bnot(crc) % 2 ^ 32
end

local function named(prefix, partition, kind, session_key)
  return string.format('%s:{%03d}:%s', prefix, partition, kind) .. (session_key and ':' .. session_key or '')
end

-- Where to look: prefix, partition (nil for all), session key (nil where none is named), as the name of a key says.
local function place(keys)
  if #keys == 0 then return 'sc', nil, nil end
  local prefix, partition, kind, rest = string.match(keys[1], '^([^:]+):{(%d%d%d)}:(%l+)(.*)$')
  if #keys > 1 or not prefix then refuse('name no key, or one as `sessioncache keys KEY` prints it') end
  if kind == 'layout' then return prefix, nil, nil end
  if NAMES_SESSION[kind] and #rest > 1 then return prefix, tonumber(partition), string.sub(rest, 2) end
  return prefix, tonumber(partition), nil
end

local function partitions_of(prefix)
  local found = tonumber(redis.call('HGET', named(prefix, 0, 'layout'), 'partitions') or nil)
  if not found or found < 1 or found > 1000 or found % 1 ~= 0 then
    refuse(string.format("there is no key %s that says how many partitions there are: sessioncache was not used here, or with "
      .. "another prefix; then name its layout, like FCALL_RO sc_show 1 'app:{000}:layout' KEY", named(prefix, 0, 'layout')))
  end
  return found
end

-- The session that is asked for, and the other arguments.
local function session_asked_for(keys, args)
  local prefix, partition, session_key = place(keys)
  local first = session_key and 1 or 2
  if not session_key then
    session_key = args[1]
    if not session_key or session_key == '' or #session_key > 512 then refuse('name a session key, of 512 bytes at most') end
    if partition then refuse('name the layout, a key of the session, or none') end
    partition = crc32(session_key) % partitions_of(prefix)
  end
  local asked = {session_key = session_key, partition = partition}
  for kind in pairs(NAMES_SESSION) do asked[kind] = named(prefix, partition, kind, session_key) end
  for _, kind in ipairs({'dirty', 'backlog', 'oldest', 'dead', 'holds', 'wake'}) do asked[kind] = named(prefix, partition, kind) end
  redis.call('EXISTS', asked.meta)  -- a Redis Cluster refuses here what is not its own
  return asked, {unpack(args, first)}
end

-- The partitions that are asked for.
local function partitions_asked_for(keys)
  local prefix, partition = place(keys)
  if partition then return prefix, partition, partition end
  return prefix, 0, partitions_of(prefix) - 1
end

-- Text on one line, without what a terminal would obey.
local function plain(text)
  local function hexadecimal(byte) return string.format('\\x%02x', string.byte(byte)) end
  if not is_text(text) then return (string.gsub(text, '[^\32-\126]', hexadecimal)) end
  text = string.gsub(text, '\194([\128-\159])', function(byte) return '\\xc2' .. hexadecimal(byte) end)
  return (string.gsub(text, '%c', hexadecimal))
end

local function line(text)
  return {ok = text}
end

local function fact(lines, name, text)
  lines[#lines + 1] = line(string.format('%-13s ', name) .. text)
end

-- A table: what each column is as wide as, but for the last.
local function add_table(lines, rows)
  local widths = {}
  for _, row in ipairs(rows) do
    for n = 1, #row - 1 do widths[n] = math.max(widths[n] or 0, #row[n]) end
  end
  for _, row in ipairs(rows) do
    local cells = {}
    for n, cell in ipairs(row) do
      cells[n] = n < #row and cell .. string.rep(' ', widths[n] - #cell) or cell
    end
    lines[#lines + 1] = line(table.concat(cells, '  '))
  end
end

local function lasting(milliseconds)
  local seconds = math.max(0, milliseconds) / 1000
  if seconds < 60 then return string.format('%.1f s', seconds) end
  local minutes = math.floor(seconds / 60)
  if minutes < 60 then return string.format('%d min %d s', minutes, seconds % 60) end
  local hours = math.floor(minutes / 60)
  if hours < 48 then return string.format('%d h %d min', hours, minutes % 60) end
  return string.format('%d d %d h', math.floor(hours / 24), hours % 24)
end

-- The time in ISO 8601, UTC, of milliseconds since 1970: years begin in March, so that a leap day is the last of one.
local function instant(text)
  local milliseconds = #text < 16 and string.find(text, '^%d+$') and tonumber(text)
  if not milliseconds then return nil end
  local days, seconds = math.floor(milliseconds / 86400000) + 719468, math.floor(milliseconds / 1000) % 86400
  local era = math.floor(days / 146097)
  local day = days % 146097
  local year = math.floor((day - math.floor(day / 1460) + math.floor(day / 36524) - math.floor(day / 146096)) / 365)
  day = day - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * day + 2) / 153)
  day = day - math.floor((153 * month + 2) / 5) + 1
  month = month < 10 and month + 3 or month - 9
  year = year + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03d+00:00', year, month, day, math.floor(seconds / 3600),
    math.floor(seconds / 60) % 60, seconds % 60, milliseconds % 1000)
end

-- What a command says, nil where the key is of another type, which is told of elsewhere; a key that this node of a Redis
-- Cluster has not is no answer.
local function said(...)
  local found = redis.pcall(...)
  if type(found) ~= 'table' or not found.err then return found end
  if of_cluster(found.err) then error(found.err, 0) end
  return nil
end

local function count(...)
  return said(...) or 0
end

local function list(...)
  return said(...) or {}
end

local function score(key, member)
  return tonumber(said('ZSCORE', key, member) or nil)
end

-- Bytes that wait under a session key, as they are counted.
local function bytes_waiting(backlog, session_key)
  local _, bytes = ops_and_bytes(said('HGET', backlog, '=' .. session_key))
  return bytes
end

local function bytes_of(number)
  return string.format('%.0f bytes', number)
end

local function expires(milliseconds)
  return milliseconds == -1 and 'without an end' or 'for ' .. lasting(milliseconds) .. ' more'
end
