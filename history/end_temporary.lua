-- Ends temporary conversations of a person: nobody finds them any more, and nothing is added. The sweep knows them.
-- Further arguments: their ids; without any, all there are. Answers: the ids of those that are there.
local of_owner, ended = KEYS[1], KEYS[2]
local owner, prefix = ARGV[1], ARGV[2]

local ids, found = { unpack(ARGV, 3) }, {}
if #ids == 0 then ids = redis.call('ZRANGE', of_owner, 0, -1) end
for _, id in ipairs(ids) do
  if redis.call('HGET', prefix .. id, 'owner') == owner then
    redis.call('HSET', prefix .. id, 'ended', 1)
    redis.call('SADD', ended, id)
    found[#found + 1] = id
  end
end
return found
