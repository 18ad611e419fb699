-- One call of a server about limits, as LimitsState.limit in limits.py does it.
--
-- KEYS  seen: sorted set of servers by time; taken: hash by server of the last seq;
--       and then those of buckets and of waiting requests, which ARGV names by their place
-- ARGV  server, seq, seconds alive, seconds of a day,
--       count of taken amounts, and of each: key, per minute, amount
--       count of waiting numbers, and of each: key, number
--       count of arrivals, and of each: key of its client's waiting requests (0 for none), most of
--       them, count of quotas, and of each: key, kind, per minute
-- Gives {servers, {reason, wait, left, left, ...}, ...}: reason is "" for who may come in, and
-- numbers are texts, as what is no whole number would be cut off.
--
-- A bucket is a text of four numbers (per minute, left, updated, beyond) that expires once it would
-- say as much as none; the waiting requests of a client are a hash by server of "count time".

local SEEN, TAKEN = KEYS[1], KEYS[2]
local server, seq, alive_s, day_s = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local MINUTE_S, ROUNDING, AT_ONCE = 60, 1e-9, 1000

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000

local at = 4
local function word()
  at = at + 1
  return ARGV[at]
end
local function number()
  return tonumber(word())
end

local function exact(value)
  return string.format('%.17g', value)
end

-- Buckets: see Bucket in core/buckets.py, whose methods these are.

local buckets = {}

local function capacity(bucket)
  return math.max(1, bucket.per_minute)
end

local function refill(bucket)
  local minutes = math.max(0, now - bucket.updated) / MINUTE_S
  bucket.left = math.min(capacity(bucket), bucket.left + minutes * bucket.per_minute)
  bucket.beyond = bucket.beyond * math.max(0, 1 - minutes)
  bucket.updated = math.max(now, bucket.updated)
end

local function resize(bucket, per_minute)
  local used = capacity(bucket) - bucket.left + bucket.beyond
  bucket.per_minute = per_minute
  local left = capacity(bucket) - used
  bucket.left, bucket.beyond = math.max(0, left), math.max(0, -left)
end

local function take(bucket, amount)
  bucket.left = math.min(capacity(bucket), bucket.left - amount)
end

local function seconds_until(bucket, amount)
  local missing = amount - bucket.left
  if missing > ROUNDING then
    return missing * MINUTE_S / bucket.per_minute
  end
  return 0
end

local function bucket_at(key, per_minute)
  local bucket = buckets[key]
  if not bucket then
    local text = redis.call('GET', key)
    if text then
      local rate, left, updated, beyond = string.match(text, '(%S+) (%S+) (%S+) (%S+)')
      bucket = {per_minute = tonumber(rate), left = tonumber(left), updated = tonumber(updated),
                beyond = tonumber(beyond)}
    else
      bucket = {per_minute = per_minute, left = math.max(1, per_minute), updated = now, beyond = 0}
    end
    buckets[key] = bucket
  end
  refill(bucket)
  if bucket.per_minute ~= per_minute then
    resize(bucket, per_minute)
  end
  return bucket
end

local function keep_buckets()
  for key, bucket in pairs(buckets) do
    local full_in = math.ceil((capacity(bucket) - bucket.left) * MINUTE_S / bucket.per_minute * 1000)
    if bucket.beyond > 0 then
      full_in = math.max(full_in, MINUTE_S * 1000)
    end
    if full_in > 0 then
      local text = exact(bucket.per_minute) .. ' ' .. exact(bucket.left) .. ' '
        .. exact(bucket.updated) .. ' ' .. exact(bucket.beyond)
      redis.call('SET', key, text, 'PX', string.format('%.0f', math.min(full_in, 1e15)))
    else
      redis.call('DEL', key)
    end
  end
end

-- Waiting requests

local function count_waiting(key)
  local total, here = 0, 0
  local told = redis.call('HGETALL', key)
  for i = 1, #told, 2 do
    local count, since = string.match(told[i + 1], '(%S+) (%S+)')
    if now - tonumber(since) < alive_s then
      total = total + tonumber(count)
      if told[i] == server then
        here = tonumber(count)
      end
    else
      redis.call('HDEL', key, told[i])
    end
  end
  return total, here
end

local function set_waiting(key, count)
  if count > 0 then
    redis.call('HSET', key, server, string.format('%.0f ', count) .. exact(now))
    redis.call('EXPIRE', key, math.ceil(alive_s))
  else
    redis.call('HDEL', key, server)
  end
end

local function decide(quotas, queue, most_waiting)
  local total, here = 0, 0
  if queue then
    total, here = count_waiting(queue)
    if total >= most_waiting then
      return 'queue_full', 0
    end
  end
  local wait, why = 0, ''
  for _, quota in ipairs(quotas) do
    local seconds = seconds_until(quota.bucket, 1)
    if seconds > wait or (seconds == wait and quota.kind > why) then
      wait, why = seconds, quota.kind
    end
  end
  if wait > 0 then
    return why .. '_per_minute', wait
  end
  for _, quota in ipairs(quotas) do
    if quota.kind == 'requests' then
      take(quota.bucket, 1)
    end
  end
  if queue then
    set_waiting(queue, here + 1)
  end
  return '', 0
end

local function judge_next()
  local queue, most_waiting, count = KEYS[number()], number(), number()
  local quotas = {}
  for i = 1, count do
    local key, kind = KEYS[number()], word()
    quotas[i] = {kind = kind, bucket = bucket_at(key, number())}
  end
  local reason, wait = decide(quotas, queue, most_waiting)
  local verdict = {reason, exact(wait)}
  for i, quota in ipairs(quotas) do
    verdict[i + 2] = exact(quota.bucket.left)
  end
  return verdict
end

local silent = redis.call('ZRANGEBYSCORE', SEEN, '-inf', '(' .. exact(now - day_s), 'LIMIT', 0, AT_ONCE)
if #silent > 0 then
  redis.call('ZREM', SEEN, unpack(silent))
  redis.call('HDEL', TAKEN, unpack(silent))
end
redis.call('ZADD', SEEN, exact(now), server)

local is_new = seq > tonumber(redis.call('HGET', TAKEN, server) or 0)
if is_new then
  redis.call('HSET', TAKEN, server, string.format('%.0f', seq))
end
for _ = 1, number() do
  local key, per_minute, amount = KEYS[number()], number(), number()
  if is_new then
    take(bucket_at(key, per_minute), amount)
  end
end
for _ = 1, number() do
  local key, count = KEYS[number()], number()
  count_waiting(key)
  set_waiting(key, count)
end

local answer = {redis.call('ZCOUNT', SEEN, '(' .. exact(now - alive_s), '+inf')}
for i = 1, number() do
  answer[i + 1] = judge_next()
end
keep_buckets()
redis.call('EXPIRE', SEEN, day_s)
redis.call('EXPIRE', TAKEN, day_s)
return answer
