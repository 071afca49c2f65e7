-- Answers: now in milliseconds, by Redis's clock; names and entries of the open breakers.
local open_breakers = KEYS[1]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {now, redis.call('HGETALL', open_breakers)}
