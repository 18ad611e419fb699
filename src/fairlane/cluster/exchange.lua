-- One exchange of a member with its pool, as HubState.exchange in memory.py does it, on a server
-- of Redis' kind. Redis runs one script at a time, so nothing comes in between.
--
-- KEYS  state: hash of era, version
--       origins: hash by origin of "seq applied"; seen: sorted set of origins by time
--       sums, born: hashes by client; changed: sorted set of clients by version
-- ARGV  origin, seq, the era that the push was made for ("" for none), the version that it knows,
--       the name of a new era, most clients, seconds alive, seconds of a day,
--       and then client, grains in turn
-- Gives {era, version, applied, members, {clients, sums, born}, {clients, sums, born}, ...}
--
-- Sums are added by HINCRBY: 64 bits, where numbers of this language have 53. All that is kept in
-- pairs is counted in pairs: where a server evicts one of the keys the counts differ.

local STATE, ORIGINS, SEEN, SUMS, BORN, CHANGED = unpack(KEYS)
local origin, seq, made_for, knows = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local most_clients, alive_s, day_s = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local FIRST_CHARGE, AT_ONCE = 9, 1000
local era, version

local function open()
  redis.call('DEL', unpack(KEYS))
  era, version = ARGV[5], 0
  redis.call('HSET', STATE, 'era', era, 'version', 0)
end

local function last_push()
  local entry = redis.call('HGET', ORIGINS, origin)
  if entry then
    local last, applied = string.match(entry, '(%d+) (%d+)')
    return tonumber(last), tonumber(applied)
  end
  return nil, 0
end

local function note_push(last, applied)
  redis.call('HSET', ORIGINS, origin, string.format('%.0f %.0f', last, applied))
end

local function drop_longest_unchanged()
  local over = redis.call('ZCARD', CHANGED) - most_clients
  while over > 0 do
    local clients = redis.call('ZRANGE', CHANGED, 0, math.min(over, AT_ONCE) - 1)
    redis.call('ZREM', CHANGED, unpack(clients))
    redis.call('HDEL', SUMS, unpack(clients))
    redis.call('HDEL', BORN, unpack(clients))
    over = over - #clients
  end
end

local function apply()
  if #ARGV >= FIRST_CHARGE then
    version = redis.call('HINCRBY', STATE, 'version', 1)
  end
  for i = FIRST_CHARGE, #ARGV, 2 do
    local client = ARGV[i]
    local sum = redis.pcall('HINCRBY', SUMS, client, ARGV[i + 1])
    if type(sum) == 'table' and sum.err then  -- it would not fit into 64 bits
      return false
    end
    if redis.call('ZADD', CHANGED, version, client) == 1 then
      redis.call('HSET', BORN, client, version)
    end
  end
  drop_longest_unchanged()
  return true
end

-- Takes the push up; the version that its sender knows, 0 for nothing.
local function take()
  local last = last_push()
  if made_for == era then
    if last and seq <= last then
      return knows
    end
    if last and seq == last + 1 and apply() then
      note_push(seq, version)
      return knows
    end
    open()
    last = nil
  end
  if not last or seq > last then
    note_push(seq, 0)
  end
  return 0
end

local function is_whole()
  local count = redis.call('ZCARD', CHANGED)
  return count == redis.call('HLEN', SUMS) and count == redis.call('HLEN', BORN)
    and redis.call('ZCARD', SEEN) == redis.call('HLEN', ORIGINS)
end

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000

local known = redis.call('HMGET', STATE, 'era', 'version')
if known[1] and is_whole() then
  era, version = known[1], tonumber(known[2])
else
  open()
end

local silent = redis.call('ZRANGEBYSCORE', SEEN, '-inf', now - day_s, 'LIMIT', 0, AT_ONCE)
if #silent > 0 then
  redis.call('ZREM', SEEN, unpack(silent))
  redis.call('HDEL', ORIGINS, unpack(silent))
end

local from = take()
redis.call('ZADD', SEEN, now, origin)
local _, applied = last_push()
local members = redis.call('ZCOUNT', SEEN, now - alive_s, '+inf')
local answer = {era, version, applied, members}
local clients = redis.call('ZRANGEBYSCORE', CHANGED, string.format('(%.0f', from), '+inf')
for first = 1, #clients, AT_ONCE do
  local some = {unpack(clients, first, math.min(first + AT_ONCE - 1, #clients))}
  local sums, born = redis.call('HMGET', SUMS, unpack(some)), redis.call('HMGET', BORN, unpack(some))
  answer[#answer + 1] = {some, sums, born}
end
for _, key in ipairs(KEYS) do
  redis.call('EXPIRE', key, day_s)
end
return answer
