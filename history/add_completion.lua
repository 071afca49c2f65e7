-- Writes the one turn of a program's question, in a conversation of its own.
-- of_owner: the conversations of this kind, by when they will be gone, for who erases all that is the owner's.
-- Answers: whether it was written; it is not if the turn is there.
local conversation, place, of_owner = KEYS[1], KEYS[2], KEYS[3]
local id, owner, turn, row, created, kept_seconds, kept_after_end_seconds =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]

if not redis.call('SET', place, id, 'NX', 'EX', kept_seconds) then return 0 end
redis.call('HSET', conversation, 'owner', owner, 'created', created, 'used', created, 'count', 1, 'bytes', #row,
  'last', turn, 'turn:' .. turn, row, 'seq:' .. turn, 1, 'open:' .. turn, 0, 'kept_after_end', kept_after_end_seconds)
redis.call('EXPIRE', conversation, kept_seconds)
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', of_owner, '-inf', now)
redis.call('ZADD', of_owner, now + kept_seconds, id)
redis.call('EXPIRE', of_owner, kept_seconds)
return 1
