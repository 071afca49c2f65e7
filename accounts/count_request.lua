-- Counts one request in up to three buckets at once, or in none, by the generic cell rate algorithm: each key holds the
-- moment, in microseconds, at which all that was counted is forgotten. Redis's own clock, so that all processes agree.
-- A moment that is farther away than a window, as after a clock that ran ahead was set back, becomes the farthest.
-- Keys after the first may be left out, with the arguments after the second. limit: 0 for none.
-- Answers: milliseconds to wait, 0 if it was counted; and of the bucket that has the fewest left: its limit (0: none has
-- one), how many are left, milliseconds until all are.
local person, of_key, of_route = KEYS[1], KEYS[2], KEYS[3]
local window_seconds, limit, key_limit, route_limit = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local window = window_seconds * 1000000
local wait, arrivals = 0, {}
local tightest, left, reset = 0, nil, 0
for at, most in ipairs({tonumber(limit) or 0, tonumber(key_limit) or 0, tonumber(route_limit) or 0}) do
  if most > 0 then
    local interval = window / most
    local held = tonumber(redis.call('GET', KEYS[at]) or 0) or 0
    if held > now + window then
      held = now + window
      redis.call('SET', KEYS[at], string.format('%.0f', held), 'EX', window_seconds)
    end
    local later = math.max(held, now) + interval
    if later - now > window + 1 then
      if later - now - window > wait then
        wait, tightest, left, reset = later - now - window, most, 0, later - interval - now
      end
    elseif wait == 0 then
      arrivals[at] = later
      local remaining = math.floor((window - (later - now)) / interval + 0.0001)
      if not left or remaining < left then tightest, left, reset = most, remaining, later - now end
    end
  end
end
if wait == 0 then
  for at, later in pairs(arrivals) do
    redis.call('SET', KEYS[at], string.format('%.0f', later), 'PX', math.ceil((later - now) / 1000))
  end
end
return {math.ceil(wait / 1000), tightest, left or 0, math.ceil(reset / 1000)}
