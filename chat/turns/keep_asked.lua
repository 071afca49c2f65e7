-- Keeps what a program asks, if the programs of its owner are not asking too much together.
-- of_owner: the set of the keys of what is being asked, some of which have ended. Answers: whether it is kept.
local asked, of_owner = KEYS[1], KEYS[2]
local value, kept_seconds, most_bytes = ARGV[1], ARGV[2], ARGV[3]

local bytes = #value
for _, other in ipairs(redis.call('SMEMBERS', of_owner)) do
  local length = other ~= asked and redis.call('STRLEN', other) or 0
  if length == 0 then redis.call('SREM', of_owner, other) end
  bytes = bytes + length
end
if bytes > tonumber(most_bytes) then return 0 end
redis.call('SET', asked, value, 'EX', kept_seconds)
redis.call('SADD', of_owner, asked)
redis.call('EXPIRE', of_owner, kept_seconds)
return 1
