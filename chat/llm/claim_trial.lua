-- Lets one request at a time try an open breaker whose time is over. The claim ends by itself.
-- Answers: 0 not now, 1 the breaker is closed, 2 the trial is the caller's.
local open_breakers = KEYS[1]
local breaker, trial, claim_ms = ARGV[1], ARGV[2], ARGV[3]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local entry = redis.call('HGET', open_breakers, breaker)
if not entry then return 1 end
local open_until, times_opened = string.match(entry, '^(%d+) (%d+)')
if not open_until then return 1 end -- it is none of ours
if tonumber(open_until) > now then return 0 end
if times_opened == '0' then return 1 end
return redis.call('SET', 'breaker:' .. breaker .. ':trial', trial, 'NX', 'PX', claim_ms) and 2 or 0
