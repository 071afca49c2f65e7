-- Writes an open turn of a temporary conversation, if `gen` is still its generation. next_gen: empty where it is over.
-- Answers: whether it was.
local conversation, place, completions = KEYS[1], KEYS[2], KEYS[3]
local turn, gen, next_gen, row, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

if redis.call('HGET', conversation, 'open:' .. turn) ~= gen then return 0 end
redis.call('HINCRBY', conversation, 'bytes', #row - redis.call('HSTRLEN', conversation, 'turn:' .. turn))
redis.call('HSET', conversation, 'turn:' .. turn, row)
if next_gen == '' then
  redis.call('HDEL', conversation, 'open:' .. turn)
  local kept_after_end = redis.call('HGET', conversation, 'kept_after_end')
  if kept_after_end then
    redis.call('EXPIRE', conversation, kept_after_end)
    redis.call('EXPIRE', place, kept_after_end)
    redis.call('ZADD', completions, 'XX', redis.call('TIME')[1] + kept_after_end, id)
  end
else
  redis.call('HSET', conversation, 'open:' .. turn, next_gen)
end
return 1
