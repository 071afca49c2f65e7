-- Counts one attempt at an act, or says how long to wait. One step, on Redis's own clock, so that all processes agree
-- and of many attempts at once exactly as many are counted as the limits allow. What has to wait is not counted.
-- A network has so many attempts a window, by the generic cell rate algorithm: its key holds the moment, in
-- microseconds, at which all that was counted is forgotten. limit: 0 for none.
-- An account has so many attempts that are free; after each further one it pauses, twice as long as after the last. One
-- that comes from a network in `known` pauses by a counter of its own, so that strangers cannot make it wait.
-- A moment that is farther away than these can be, as after a clock that ran ahead was set back, becomes the farthest.
-- Keys after the first may be left out, with the arguments after the second.
-- Answers: milliseconds to wait, 0 if it was counted.
local network, account, known, account_here = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local limit, window_seconds, free, first_seconds, longest_seconds, kept_seconds, here =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local wait, arrival, count = 0, nil, nil

if tonumber(limit) > 0 then
  local window = window_seconds * 1000000
  local held = tonumber(redis.call('GET', network) or 0) or 0
  if held > now + window then
    held = now + window
    redis.call('SET', network, string.format('%.0f', held), 'EX', window_seconds)
  end
  arrival = math.max(held, now) + window / limit
  if arrival - now > window + 1 then wait = arrival - now - window end
end
if known and redis.call('ZSCORE', known, here) then account = account_here end
if account then
  local held = redis.call('HMGET', account, 'count', 'until')
  count = (tonumber(held[1] or 0) or 0) + 1
  local longest = now + longest_seconds * 1000000
  local until_then = tonumber(held[2] or 0) or 0
  if until_then > longest then
    until_then = longest
    redis.call('HSET', account, 'until', string.format('%.0f', longest))
  end
  wait = math.max(wait, until_then - now)
end
if wait > 0 then return math.ceil(wait / 1000) end

if arrival then
  redis.call('SET', network, string.format('%.0f', arrival), 'PX', math.ceil((arrival - now) / 1000))
end
if account then
  local pause = 0
  if count >= tonumber(free) then pause = math.min(first_seconds * 2 ^ math.min(count - free, 30), longest_seconds) end
  redis.call('HSET', account, 'count', count, 'until', string.format('%.0f', now + pause * 1000000))
  redis.call('EXPIRE', account, kept_seconds)
end
return 0
