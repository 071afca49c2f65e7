-- Counts one more, by the generic cell rate algorithm. The key holds the theoretical arrival time in microseconds: the
-- moment at which all that was counted is forgotten. Redis's own clock, so that every process agrees.
-- Answers: 1 if it was counted, else 0; how many are left; milliseconds until all are; milliseconds to wait for one.
local arrival = KEYS[1]
local limit, window_seconds = ARGV[1], ARGV[2]

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local window = window_seconds * 1000000
local interval = window / limit
local earlier = math.max(tonumber(redis.call('GET', arrival) or 0), now)
local later = earlier + interval
if later - now > window + 1 then
  return {0, 0, math.ceil((earlier - now) / 1000), math.ceil((later - now - window) / 1000)}
end
redis.call('SET', arrival, string.format('%.0f', later), 'PX', math.ceil((later - now) / 1000))
return {1, math.floor((window - (later - now)) / interval + 0.0001), math.ceil((later - now) / 1000), 0}
