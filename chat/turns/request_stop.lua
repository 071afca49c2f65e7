-- Asks whoever runs a turn to stop it. The first request holds: it notes who has the lease.
local stop_request, lease = KEYS[1], KEYS[2]
local turn, channel, kept_seconds = ARGV[1], ARGV[2], ARGV[3]

redis.call('SET', stop_request, redis.call('GET', lease) or '', 'EX', kept_seconds, 'NX')
redis.call('PUBLISH', channel, turn)
return 1
