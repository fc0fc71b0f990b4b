"""The Lua scripts of the live store: each write is one step inside Redis, and decides there what is newer.

All scripts take the keys of ``meta`` and ``push`` first, and as first arguments the layout, the number of
buckets and the bytes of ``push``. They answer with the generation of the store, and how much was taken. Lua
here is 5.1: numbers are doubles, exact to 2**53, so that microseconds are read as one number and sequence
numbers as two halves. What ``docs/live-store.md`` says of the bytes is repeated here as offsets.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

#: Arguments and pushed values are cut so that Lua's stack (8,000 slots) holds them.
_PRELUDE = """
local function generation()
  local found = redis.call('HMGET', KEYS[1], 'generation', 'layout', 'buckets')
  if not found[1] then
    local now = redis.call('TIME')
    local made = now[1] .. '-' .. now[2]
    redis.call('HSET', KEYS[1], 'generation', made, 'layout', ARGV[1], 'buckets', ARGV[2])
    redis.call('XADD', KEYS[2], '*', 'k', 'made')
    return made
  end
  if found[2] ~= ARGV[1] or found[3] ~= ARGV[2] then
    return nil, redis.error_reply('OTHERSTORE ' .. tostring(found[2]) .. ' ' .. tostring(found[3]))
  end
  return found[1]
end

local function words(sizes, text)
  local made, at = {}, 1
  for i = 1, #sizes / 2 do
    local low, high = string.byte(sizes, 2 * i - 1, 2 * i)
    local stop = at + low + 256 * high
    made[i] = string.sub(text, at, stop - 1)
    at = stop
  end
  return made
end

-- As many entries as this one's size lets into the backlog: the large ones are those that fill it.
local function push(...)
  local size = 0
  for _, value in ipairs({...}) do size = size + #value end
  local most = math.min(10000, math.max(16, math.floor(ARGV[3] / (size + 100))))
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', most, '*', ...)
end

local function in_parts(list, most, use)
  for at = 1, #list, most do
    use(unpack(list, at, math.min(at + most - 1, #list)))
  end
end
"""

# KEYS[3] the bucket's open bars of a kind, KEYS[4] the stamps. ARGV: 4 bucket, 5 stamp, 6 whole, 7 sizes, 8
# names, 9 how many records each name has (u16), 10 the records, 11 whether they are of days.
_WRITE_OPEN = """
local made, wrong = generation()
if wrong then return wrong end
local field = ARGV[11] == '1' and ARGV[4] .. ':days' or ARGV[4]
local before = redis.call('HGET', KEYS[4], field)
if before and tonumber(before) > tonumber(ARGV[5]) then return {made, 0} end
redis.call('HSET', KEYS[4], field, ARGV[5])

if ARGV[6] == '1' then redis.call('DEL', KEYS[3]) end
local names, flat, at = words(ARGV[7], ARGV[8]), {}, 1
for i, name in ipairs(names) do
  local low, high = string.byte(ARGV[9], 2 * i - 1, 2 * i)
  local stop = at + 85 * (low + 256 * high)
  flat[2 * i - 1] = name
  flat[2 * i] = string.sub(ARGV[10], at, stop - 1)
  at = stop
end
in_parts(flat, 4000, function(...) redis.call('HSET', KEYS[3], ...) end)
if #names > 0 or ARGV[6] == '1' then
  push('k', 'open', 'b', ARGV[4], 'd', ARGV[11], 'w', ARGV[6], 's', ARGV[7], 'n', ARGV[8], 'c', ARGV[9],
    'r', ARGV[10])
end
return {made, #ARGV[10] / 85}
"""

# KEYS[3] the last prices. ARGV: 4 sizes, 5 names, 6 records.
_WRITE_PRICES = """
local made, wrong = generation()
if wrong then return wrong end

local function is_newer(row, held)
  local ts, low, high = struct.unpack('<i8I4i4', row)
  local held_ts, held_low, held_high = struct.unpack('<i8I4i4', held)
  if ts ~= held_ts then return ts > held_ts end
  if high ~= held_high then return high > held_high end
  return low > held_low
end

local names, held = words(ARGV[4], ARGV[5]), {}
in_parts(names, 4000, function(...)
  for _, value in ipairs(redis.call('HMGET', KEYS[3], ...)) do held[#held + 1] = value end
end)
local flat, sizes, taken, rows = {}, {}, {}, {}
for i, name in ipairs(names) do
  local row = string.sub(ARGV[6], 33 * i - 32, 33 * i)
  if not held[i] or is_newer(row, held[i]) then
    taken[#taken + 1] = name
    rows[#rows + 1] = row
    sizes[#sizes + 1] = string.sub(ARGV[4], 2 * i - 1, 2 * i)
    flat[#flat + 1] = name
    flat[#flat + 1] = row
  end
end
in_parts(flat, 4000, function(...) redis.call('HSET', KEYS[3], ...) end)
if #flat > 0 then
  push('k', 'price', 's', table.concat(sizes), 'n', table.concat(taken), 'r', table.concat(rows))
end
return {made, #rows}
"""

# KEYS[3..] a list of closed bars each. ARGV: 4 how many bars a list keeps, 5 whether to push, 6 the length of
# what precedes the name in a key, 7 how many records each list gets (u16), 8 the records, oldest first within
# a list.
_WRITE_CLOSED = """
local made, wrong = generation()
if wrong then return wrong end
local keep = tonumber(ARGV[4])

local function ts_of(row) return (struct.unpack('<i8', row)) end

-- Whether a record may replace one of the same window: later written, then the higher revision, then the
-- final one.
local function replaces(row, held)
  local revision, _, flags, written = struct.unpack('<i4I2BI4', row, 73)
  local held_revision, _, held_flags, held_written = struct.unpack('<i4I2BI4', held, 73)
  if written ~= held_written then return written > held_written end
  if revision ~= held_revision then return revision > held_revision end
  return flags >= held_flags
end

local function put(key, row)
  local ts = ts_of(row)
  local last = redis.call('LINDEX', key, -1)
  if not last or ts > ts_of(last) then
    if redis.call('RPUSH', key, row) > keep then redis.call('LTRIM', key, -keep, -1) end
    return true
  end
  local depth = 16
  while true do
    local held = redis.call('LRANGE', key, -depth, -1)
    for i = #held, 1, -1 do
      local there = ts_of(held[i])
      if there == ts then
        if held[i] == row or not replaces(row, held[i]) then return false end
        redis.call('LSET', key, i - #held - 1, row)
        return true
      elseif there < ts then
        redis.call('LINSERT', key, 'AFTER', held[i], row)
        redis.call('LTRIM', key, -keep, -1)
        return true
      end
    end
    if #held < depth then
      if #held >= keep then return false end
      redis.call('LPUSH', key, row)
      return true
    end
    depth = depth * 8
  end
end

-- Many records at once: two sorted lists become one.
local function merge(key, rows)
  local held = redis.call('LRANGE', key, 0, -1)
  local all, taken, i, j = {}, {}, 1, 1
  while held[i] or rows[j] do
    local old, new = held[i] and ts_of(held[i]), rows[j] and ts_of(rows[j])
    if not new or (old and old < new) then
      all[#all + 1] = held[i]
      i = i + 1
    elseif not old or new < old then
      all[#all + 1] = rows[j]
      taken[#taken + 1] = rows[j]
      j = j + 1
    else
      local better = held[i] ~= rows[j] and replaces(rows[j], held[i])
      all[#all + 1] = better and rows[j] or held[i]
      if better then taken[#taken + 1] = rows[j] end
      i, j = i + 1, j + 1
    end
  end
  if #taken > 0 then
    redis.call('DEL', key)
    in_parts(all, 4000, function(...) redis.call('RPUSH', key, ...) end)
    redis.call('LTRIM', key, -keep, -1)
  end
  return taken
end

local sizes, names, rows, at = {}, {}, {}, 1
for list = 3, #KEYS do
  local key = KEYS[list]
  local low, high = string.byte(ARGV[7], 2 * list - 5, 2 * list - 4)
  local count = low + 256 * high
  local taken
  if count == 1 then
    local row = string.sub(ARGV[8], at, at + 84)
    taken = put(key, row) and {row} or {}
  else
    local given = {}
    for i = 1, count do given[i] = string.sub(ARGV[8], at + 85 * (i - 1), at + 85 * i - 1) end
    taken = merge(key, given)
  end
  at = at + 85 * count
  local name = string.sub(key, tonumber(ARGV[6]) + 1)
  for _, row in ipairs(taken) do
    names[#names + 1] = name
    sizes[#sizes + 1] = struct.pack('<I2', #name)
    rows[#rows + 1] = row
  end
end
if #rows > 0 and ARGV[5] == '1' then
  push('k', 'closed', 's', table.concat(sizes), 'n', table.concat(names), 'r', table.concat(rows))
end
return {made, #rows}
"""

# Makes the store where there is none.
_TOUCH = """
local made, wrong = generation()
if wrong then return wrong end
return {made, 0}
"""

# The generation, and the first and last id of ``push``; reads only, so that it may run on a replica.
_EDGES = """
local made = redis.call('HGET', KEYS[1], 'generation')
local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
return {made or '', first[1] and first[1][1] or '', last[1] and last[1][1] or ''}
"""

# KEYS: meta, push, the claim. ARGV: 1 the generation that was filled, 2 whose claim it is, 3 the marker.
_FILLED = """
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] or redis.call('GET', KEYS[3]) ~= ARGV[2] then return 0
end redis.call('HSET', KEYS[1], 'filled', ARGV[3])
redis.call('DEL', KEYS[3])
return 1
"""


@dataclass(frozen=True)
class Script:
    """A script's text, and the name by which Redis keeps it."""

    text: str

    @cached_property
    def sha(self) -> str:
        """The SHA-1 of the text, which is its name."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


WRITE_OPEN = Script(_PRELUDE + _WRITE_OPEN)
WRITE_PRICES = Script(_PRELUDE + _WRITE_PRICES)
WRITE_CLOSED = Script(_PRELUDE + _WRITE_CLOSED)
TOUCH = Script(_PRELUDE + _TOUCH)
EDGES = Script(_EDGES)
FILLED = Script(_FILLED)
