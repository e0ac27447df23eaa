-- What functions show of messages: the JSON text of msgpack, exact for 64-bit integers, floats, nulls and the order of keys,
-- which cmsgpack and cjson are not. Text that is not UTF-8, and binary data, is shown by a lone surrogate for each byte that is
-- none (\udc80 to \udcff, as Python's `surrogateescape` reads it). What no msgpack begins with, is cut off, nested too deep or
-- followed by more is garbage. What one call may do is counted in steps: a value is one, so is a byte that is not UTF-8.
local MOST_STEPS, MOST_NESTING = 50000, 120
local GARBAGE, TOO_MUCH = 'garbage', 'too much'

local steps_left

local function spend(steps)
  steps_left = steps_left - steps
  if steps_left < 0 then error(TOO_MUCH, 0) end
end

local ESCAPES = {['"'] = '\\"', ['\\'] = '\\\\', ['\b'] = '\\b', ['\f'] = '\\f', ['\n'] = '\\n', ['\r'] = '\\r', ['\t'] = '\\t'}
local CONTROLS = {}  -- what a terminal obeys, too, of more than one byte

-- Fills the tables at the first call: while a library is loaded there is no `string`.
local function fill_escapes()
  if ESCAPES['\127'] then return end
  for code = 0, 31 do
    local character = string.char(code)
    ESCAPES[character] = ESCAPES[character] or string.format('\\u%04x', code)
  end
  for code = 128, 159 do CONTROLS['\194' .. string.char(code)] = string.format('\\u%04x', code) end
  ESCAPES['\127'] = '\\u007f'
end

-- What UTF-8 is made of, beyond ASCII.
local SEQUENCES = {
  '[\194-\223][\128-\191]', '\224[\160-\191][\128-\191]', '[\225-\236\238\239][\128-\191][\128-\191]',
  '\237[\128-\159][\128-\191]', '\240[\144-\191][\128-\191][\128-\191]', '[\241-\243][\128-\191][\128-\191][\128-\191]',
  '\244[\128-\143][\128-\191][\128-\191]',
}

local function is_text(bytes)
  for _, sequence in ipairs(SEQUENCES) do bytes = string.gsub(bytes, sequence, '.') end
  return not string.find(bytes, '[\128-\255]')
end

-- A surrogate for each byte of a run that no UTF-8 sequence holds.
local function surrogates(run)
  spend(#run)
  local parts, at = {}, 1
  while at <= #run do
    local stop
    for _, sequence in ipairs(SEQUENCES) do
      _, stop = string.find(run, '^' .. sequence, at)
      if stop then break end
    end
    parts[#parts + 1] = stop and string.sub(run, at, stop) or string.format('\\udc%02x', string.byte(run, at))
    at = (stop or at) + 1
  end
  return table.concat(parts)
end

local function quoted(bytes)
  if string.find(bytes, '[%c"\\]') then bytes = string.gsub(bytes, '[%c"\\]', ESCAPES) end
  if string.find(bytes, '[\128-\255]') then
    if not is_text(bytes) then bytes = string.gsub(bytes, '[\128-\255]+', surrogates) end
    bytes = string.gsub(bytes, '\194[\128-\159]', CONTROLS)
  end
  return '"' .. bytes .. '"'
end

local function need(bytes, at, size)
  if at + size - 1 > #bytes then error(GARBAGE, 0) end
end

local function unsigned(bytes, at, size)
  need(bytes, at, size)
  local number = 0
  for n = at, at + size - 1 do number = number * 256 + string.byte(bytes, n) end
  return number
end

-- The decimal text of high * 2^32 + low, of which low may be 2^32. No sum here reaches 2^53.
local function decimal(high, low)
  local rest = high * 967296 + low
  local millions = high * 4294 + math.floor(rest / 1000000)
  if millions == 0 then return string.format('%.0f', rest) end
  return string.format('%.0f%06.0f', millions, rest % 1000000)
end

local function signed(bytes, at, size)
  local number = unsigned(bytes, at, size)
  return string.format('%.0f', number < 2 ^ (8 * size - 1) and number or number - 2 ^ (8 * size))
end

local function signed_64(bytes, at)
  local high, low = unsigned(bytes, at, 4), unsigned(bytes, at + 4, 4)
  if high < 2 ^ 31 then return decimal(high, low) end
  return '-' .. decimal(2 ^ 32 - 1 - high, 2 ^ 32 - low)
end

-- The shortest text that reads back equal, and as a float. JSON has no word for the last three.
local function float(number)
  if number ~= number then return '"NaN"' end
  if number == math.huge then return '"Infinity"' end
  if number == -math.huge then return '"-Infinity"' end
  local text
  for digits = 15, 17 do
    text = string.format('%.' .. digits .. 'g', number)
    if tonumber(text) == number then break end
  end
  return string.find(text, '[.e]') and text or text .. '.0'
end

local write

local function write_string(out, bytes, at, size)
  need(bytes, at, size)
  out[#out + 1] = quoted(string.sub(bytes, at, at + size - 1))
  return at + size
end

local function deeper(depth)
  if depth >= MOST_NESTING then error(GARBAGE, 0) end
  return depth + 1
end

local function write_list(out, bytes, at, size, depth)
  depth = deeper(depth)
  out[#out + 1] = '['
  for n = 1, size do
    if n > 1 then out[#out + 1] = ', ' end
    at = write(out, bytes, at, depth)
  end
  out[#out + 1] = ']'
  return at
end

-- A key that is no text is shown as the text of its JSON.
local function write_key(out, bytes, at, depth)
  local before = #out
  at = write(out, bytes, at, depth)
  if string.byte(out[before + 1]) ~= 34 then
    local text = table.concat(out, '', before + 1)
    for n = #out, before + 1, -1 do out[n] = nil end
    out[before + 1] = quoted(text)
  end
  return at
end

local function write_map(out, bytes, at, size, depth)
  depth = deeper(depth)
  out[#out + 1] = '{'
  for n = 1, size do
    if n > 1 then out[#out + 1] = ', ' end
    at = write_key(out, bytes, at, depth)
    out[#out + 1] = ': '
    at = write(out, bytes, at, depth)
  end
  out[#out + 1] = '}'
  return at
end

-- What follows a first byte that is not a small number, text, list or map.
local FORMS = {}

local function word(text)
  return function(out, _, at)
    out[#out + 1] = text
    return at
  end
end

local function number(size, read)
  return function(out, bytes, at)
    need(bytes, at, size)
    out[#out + 1] = read(bytes, at, size)
    return at + size
  end
end

local function sized(size, wrote)
  return function(out, bytes, at, depth) return wrote(out, bytes, at + size, unsigned(bytes, at, size), depth) end
end

local function natural(bytes, at, size) return string.format('%.0f', unsigned(bytes, at, size)) end
local function natural_64(bytes, at) return decimal(unsigned(bytes, at, 4), unsigned(bytes, at + 4, 4)) end
local function float_32(bytes, at) return float((struct.unpack('>f', bytes, at))) end
local function float_64(bytes, at) return float((struct.unpack('>d', bytes, at))) end

FORMS[0xc0], FORMS[0xc2], FORMS[0xc3] = word('null'), word('false'), word('true')
FORMS[0xca], FORMS[0xcb] = number(4, float_32), number(8, float_64)
FORMS[0xcc], FORMS[0xcd], FORMS[0xce], FORMS[0xcf] = number(1, natural), number(2, natural), number(4, natural), number(8, natural_64)
FORMS[0xd0], FORMS[0xd1], FORMS[0xd2], FORMS[0xd3] = number(1, signed), number(2, signed), number(4, signed), number(8, signed_64)
FORMS[0xc4], FORMS[0xc5], FORMS[0xc6] = sized(1, write_string), sized(2, write_string), sized(4, write_string)
FORMS[0xd9], FORMS[0xda], FORMS[0xdb] = FORMS[0xc4], FORMS[0xc5], FORMS[0xc6]
FORMS[0xdc], FORMS[0xdd] = sized(2, write_list), sized(4, write_list)
FORMS[0xde], FORMS[0xdf] = sized(2, write_map), sized(4, write_map)

write = function(out, bytes, at, depth)
  spend(1)
  need(bytes, at, 1)
  local first = string.byte(bytes, at)
  at = at + 1
  if first < 0x80 or first >= 0xe0 then
    out[#out + 1] = string.format('%d', first < 0x80 and first or first - 256)
    return at
  end
  if first < 0x90 then return write_map(out, bytes, at, first - 0x80, depth) end
  if first < 0xa0 then return write_list(out, bytes, at, first - 0x90, depth) end
  if first < 0xc0 then return write_string(out, bytes, at, first - 0xa0) end
  if not FORMS[first] then error(GARBAGE, 0) end
  return FORMS[first](out, bytes, at, depth)
end

local function all_of(bytes)
  local out = {}
  if write(out, bytes, 1, 0) ~= #bytes + 1 then error(GARBAGE, 0) end
  return table.concat(out)
end

-- The JSON text of a msgpack; nil and GARBAGE or TOO_MUCH where there is none.
local function json(bytes)
  local done, found = pcall(all_of, bytes)
  if done then return found end
  return nil, found
end
