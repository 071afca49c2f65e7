-- Takes an array of Report in msgpack: opens and closes breakers, and counts for the status page.
-- Answers as read_open_breakers.lua does, and the names of the breakers that opened.
--
-- An entry of an open breaker is `<open until> <times opened> <last failure> <code>`, in milliseconds of Redis's clock.
-- Zero times opened is a pause the provider asked for, which ends without a trial.
local open_breakers, probes = KEYS[1], KEYS[2]
local reports, failures_in_a_row, min_attempts, failed_share, slot_ms, slots, first_open_ms, max_open_ms,
  forget_after_ms, hour_counters, hour_ms, hour_counters_ttl, five_minute_counters, five_minutes_ms,
  five_minute_counters_ttl, last_resort, min_refused, unreachable_codes, probe_valid_seconds = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8],
  ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13], ARGV[14],
  ARGV[15], ARGV[16], ARGV[17], ARGV[18], ARGV[19]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local slot = math.floor(now / slot_ms)
local hour_key = hour_counters .. math.floor(now / hour_ms)
local five_minutes_key = five_minute_counters .. math.floor(now / five_minutes_ms)
local opened, has_counted = {}, false

local function parse_entry(entry)
  local open_until, times_opened, failed_at, code = string.match(entry, '^(%d+) (%d+) (%d+) (%S+)$')
  return tonumber(open_until), tonumber(times_opened), tonumber(failed_at), code
end

local function save_entry(breaker, open_until, times_opened, code)
  redis.call('HSET', open_breakers, breaker, string.format('%.0f %d %.0f %s', open_until, times_opened, now, code))
end

local function open_breaker(breaker, times_opened, code)
  local open_ms = math.min(tonumber(max_open_ms), first_open_ms * 2 ^ (times_opened - 1))
  save_entry(breaker, now + open_ms, times_opened, code)
  redis.call('DEL', 'breaker:' .. breaker)
  opened[#opened + 1] = breaker
end

-- Returns whether the last probe could not reach the breaker's provider.
local function is_unreachable(breaker)
  local probe = redis.call('HGET', probes, string.match(breaker, '^[^:]*'))
  if not probe then return false end
  local is_json, found = pcall(cjson.decode, probe)
  if not is_json or type(found) ~= 'table' then return false end
  local at, code = found.at, found.code
  return type(at) == 'number' and type(code) == 'string' and now / 1000 - at < tonumber(probe_valid_seconds)
    and string.find(' ' .. unreachable_codes .. ' ', ' ' .. code .. ' ', 1, true) ~= nil
end

-- Returns whether a failure says something new. One that may be the question's does so once for each person.
local function is_new(breaker, asker)
  if asker == '' then return true end
  local key = 'breaker:' .. breaker .. ':askers'
  local added = redis.call('SADD', key, asker)
  redis.call('EXPIRE', key, math.ceil(slot_ms * slots / 1000) * 2)
  return added == 1 or is_unreachable(breaker)
end

-- Counts an attempt, and returns whether the breaker must open.
local function count_attempt(breaker, has_failed)
  local key = 'breaker:' .. breaker
  redis.call('HINCRBY', key, 't' .. slot, 1)
  redis.call('EXPIRE', key, math.ceil(slot_ms * slots / 1000) * 2)
  if not has_failed then
    redis.call('HSET', key, 'row', 0)
    return false
  end
  redis.call('HINCRBY', key, 'f' .. slot, 1)
  if redis.call('HINCRBY', key, 'row', 1) >= tonumber(failures_in_a_row) then return true end
  local attempts, failures, expired_fields = 0, 0, {}
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    local kind, field_slot = string.match(fields[i], '^([tf])(%d+)$')
    if kind and tonumber(field_slot) <= slot - slots then
      expired_fields[#expired_fields + 1] = fields[i]
    elseif kind == 't' then
      attempts = attempts + fields[i + 1]
    elseif kind == 'f' then
      failures = failures + fields[i + 1]
    end
  end
  if #expired_fields > 0 then redis.call('HDEL', key, unpack(expired_fields)) end
  return attempts >= tonumber(min_attempts) and failures >= attempts * failed_share
end

for _, report in ipairs(cmsgpack.unpack(reports)) do
  local breaker, verdict, code, pause_ms, trial, counter_fields, asker = unpack(report)
  local is_own_trial = trial ~= '' and trial ~= last_resort
  local trial_key = 'breaker:' .. breaker .. ':trial'
  if is_own_trial and redis.call('GET', trial_key) == trial then
    redis.call('DEL', trial_key)
  end
  local entry = redis.call('HGET', open_breakers, breaker)
  local open_until, times_opened
  if entry then open_until, times_opened = parse_entry(entry) end
  if not open_until then entry = false end -- or it is none of ours, and is dropped below
  if verdict == 'success' then
    if entry and (trial ~= '' or (times_opened == 0 and open_until <= now)) then
      redis.call('HDEL', open_breakers, breaker)
    end
    count_attempt(breaker, false)
  elseif verdict == 'pause' then
    if not entry or (times_opened == 0 and open_until < now + pause_ms) then
      save_entry(breaker, now + pause_ms, 0, code)
      opened[#opened + 1] = breaker
    elseif times_opened > 0 and is_own_trial then
      save_entry(breaker, now + math.max(pause_ms, tonumber(first_open_ms)), times_opened, code)
    end
  elseif verdict == 'failure' or verdict == 'unusable' then
    if entry and times_opened > 0 then
      if is_own_trial then
        open_breaker(breaker, times_opened + 1, code)
      else
        save_entry(breaker, open_until, times_opened, code)
      end
    elseif is_new(breaker, asker) then
      local opens = count_attempt(breaker, true)
      if verdict == 'unusable' and not opens then
        opens = asker == '' or redis.call('HINCRBY', 'breaker:' .. breaker, 'refused', 1) >= tonumber(min_refused)
      end
      if opens then open_breaker(breaker, 1, code) end
    end
  end
  for _, field in ipairs(counter_fields) do
    has_counted = true
    redis.call('HINCRBY', hour_key, field, 1)
    redis.call('HINCRBY', five_minutes_key, field, 1)
  end
end
if has_counted then
  redis.call('EXPIRE', hour_key, hour_counters_ttl)
  redis.call('EXPIRE', five_minutes_key, five_minute_counters_ttl)
end
local entries = redis.call('HGETALL', open_breakers)
for i = 1, #entries, 2 do
  local open_until, times_opened = parse_entry(entries[i + 1])
  local kept_ms = times_opened == 0 and 0 or forget_after_ms
  if not open_until or open_until + kept_ms < now then redis.call('HDEL', open_breakers, entries[i]) end
end
return {now, redis.call('HGETALL', open_breakers), opened}
