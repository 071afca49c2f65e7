-- Begins a temporary conversation, unless its owner has as many as one may.
-- Answers: 0 it has begun, else the seconds until the first of them ends.
local conversation, of_owner = KEYS[1], KEYS[2]
local id, owner, created, kept_seconds, most = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', of_owner, '-inf', now)
if redis.call('ZCARD', of_owner) >= tonumber(most) then
  return math.max(1, tonumber(redis.call('ZRANGE', of_owner, 0, 0, 'WITHSCORES')[2]) - now)
end
redis.call('HSET', conversation, 'owner', owner, 'created', created, 'used', created, 'count', 0, 'bytes', 0, 'last', '')
redis.call('EXPIRE', conversation, kept_seconds)
redis.call('ZADD', of_owner, now + kept_seconds, id)
redis.call('EXPIRE', of_owner, kept_seconds)
return 0
