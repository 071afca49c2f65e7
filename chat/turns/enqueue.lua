-- Puts a turn into the queue, marks that it is there, and notifies the web processes. It is not being opened any more.
local queue, mark, opening = KEYS[1], KEYS[2], KEYS[3]
local turn, mark_seconds, channel, notification = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

redis.call('XADD', queue, '*', 'turn', turn)
redis.call('ZREM', opening, turn)
redis.call('SET', mark, '1', 'EX', mark_seconds)
redis.call('PUBLISH', channel, notification)
