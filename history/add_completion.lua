-- Writes the one turn of a program's question, in a conversation of its own.
-- Answers: whether it was written; it is not if the turn is there.
local conversation, place = KEYS[1], KEYS[2]
local id, owner, turn, row, created, kept_seconds, kept_after_end_seconds =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]

if not redis.call('SET', place, id, 'NX', 'EX', kept_seconds) then return 0 end
redis.call('HSET', conversation, 'owner', owner, 'created', created, 'used', created, 'count', 1, 'bytes', #row,
  'last', turn, 'turn:' .. turn, row, 'seq:' .. turn, 1, 'open:' .. turn, 0, 'kept_after_end', kept_after_end_seconds)
redis.call('EXPIRE', conversation, kept_seconds)
return 1
