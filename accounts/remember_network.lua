-- Notes that somebody got into an account from a network: it is known from now on, and pauses apart from strangers. What
-- count_attempt.lua counted for this attempt is given back.
local account, known, account_here = KEYS[1], KEYS[2], KEYS[3]
local here, most_known, known_seconds = ARGV[1], ARGV[2], ARGV[3]

redis.call('DEL', account_here)
if redis.call('ZADD', known, redis.call('TIME')[1], here) == 1 then
  local count = tonumber(redis.call('HGET', account, 'count') or 0) or 0
  if count > 1 then
    redis.call('HSET', account, 'count', count - 1, 'until', 0)
  else
    redis.call('DEL', account)
  end
end
redis.call('ZREMRANGEBYRANK', known, 0, -most_known - 1)
redis.call('EXPIRE', known, known_seconds)
