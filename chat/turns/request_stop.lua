-- Asks whoever runs a turn to stop it. The first request holds: it notes who has the lease, where the turn's person
-- wants the stop; else nobody.
-- is_persons: '1' or '0'.
local stop_request, lease = KEYS[1], KEYS[2]
local turn, channel, kept_seconds, is_persons = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local holder = is_persons == '1' and redis.call('GET', lease) or ''
redis.call('SET', stop_request, holder, 'EX', kept_seconds, 'NX')
redis.call('PUBLISH', channel, turn)
return 1
