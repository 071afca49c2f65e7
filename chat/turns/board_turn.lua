-- Notes that a runner has a turn on board. Answers: how many others had it, and have neither left it nor ended it.
local aboard = KEYS[1]
local runner, kept_seconds = ARGV[1], ARGV[2]

redis.call('SADD', aboard, runner)
redis.call('EXPIRE', aboard, kept_seconds)
return redis.call('SCARD', aboard) - 1
