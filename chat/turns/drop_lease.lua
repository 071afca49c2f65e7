-- Drops a turn's lease if it is the holder's.
local lease = KEYS[1]
local holder = ARGV[1]

if redis.call('GET', lease) == holder then redis.call('DEL', lease) end
return 1
