-- Puts a turn into the queue with the id of its request, for the logs, marks that it is there, and notifies the web
-- processes. It is not being opened any more.
local queue, mark, opening = KEYS[1], KEYS[2], KEYS[3]
local turn, mark_seconds, channel, notification, request = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

redis.call('XADD', queue, '*', 'turn', turn, 'request', request)
redis.call('ZREM', opening, turn)
redis.call('SET', mark, '1', 'EX', mark_seconds)
redis.call('PUBLISH', channel, notification)
