-- peek: the heads of pending logs, in whole groups, until a number of ops or bytes is reached.
-- KEYS  pending, one for each session key
-- ARGV  max_ops (in all) max_bytes (in all; the first group is taken whatever its size)
-- Reply one list of elements for each key, in order; empty where the bounds were reached before, or for a key that is no list
local ops, bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local reply = {}
for k, pending in ipairs(KEYS) do
  local taken, at, left = {}, 0, 0
  while left > 0 or (ops > 0 and bytes > 0) do
    local page = redis.pcall('LRANGE', pending, at, at + 99)
    if page.err or #page == 0 then break end
    for _, element in ipairs(page) do
      if left == 0 and (ops <= 0 or bytes <= 0) then break end
      left = tonumber(string.match(element, '^%d+ %S+ (%d+) ') or 0)
      taken[#taken + 1] = element
      ops, bytes = ops - 1, bytes - #element
    end
    at = at + 100
  end
  reply[k] = taken
end
return reply
