-- Adds a turn at the end of a temporary conversation, which is kept for kept_seconds from now on.
-- parent: the turn it follows, empty for none. wanted: the number it must get, 0 for any. row: the turn without that.
-- Answers: its number; 0 the conversation is not there, -1 another turn has taken the number, -2 the parent is not the
-- last turn, -3 its owner has as much text as one may, -4 the turn is there.
local conversation, place, of_owner = KEYS[1], KEYS[2], KEYS[3]
local id, owner, turn, parent, wanted, row, used, kept_seconds, most_bytes, prefix, place_prefix =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6],
  ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]

if redis.call('HGET', conversation, 'owner') ~= owner or redis.call('HEXISTS', conversation, 'ended') == 1 then return 0 end
if redis.call('EXISTS', place) == 1 then return -4 end
if redis.call('HEXISTS', conversation, 'kept_after_end') == 1 then return 0 end -- a program's question
local seq = redis.call('HGET', conversation, 'count') + 1
if tonumber(wanted) > 0 and tonumber(wanted) ~= seq then return -1 end
if redis.call('HGET', conversation, 'last') ~= parent then return -2 end
local bytes = #row
for _, other in ipairs(redis.call('ZRANGE', of_owner, 0, -1)) do
  bytes = bytes + (redis.call('HGET', prefix .. other, 'bytes') or 0)
end
if bytes > tonumber(most_bytes) then return -3 end

redis.call('HSET', conversation, 'turn:' .. turn, row, 'seq:' .. turn, seq, 'open:' .. turn, 0,
  'last', turn, 'count', seq, 'used', used)
redis.call('HINCRBY', conversation, 'bytes', #row)
redis.call('SET', place, id)
redis.call('EXPIRE', conversation, kept_seconds)
for _, field in ipairs(redis.call('HKEYS', conversation)) do
  if field:sub(1, 4) == 'seq:' then redis.call('EXPIRE', place_prefix .. field:sub(5), kept_seconds) end
end
redis.call('ZADD', of_owner, redis.call('TIME')[1] + kept_seconds, id)
redis.call('EXPIRE', of_owner, kept_seconds)
return seq
