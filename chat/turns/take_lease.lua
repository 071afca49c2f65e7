-- Takes a turn's lease if it is free or the new holder's own, and reads the answer cache in the same step.
-- A lease of the same runner under an earlier generation is its own: Redis may have come back from before it took the
-- turn again. So is one of this generation: the answer to a first try may have been lost. A later one is not: then this
-- call comes late.
-- empties_log: '1' for a new generation. cache, cache_version, cache_field may be left out.
-- Answers: 0 not taken, 1 taken, 2 taken and the turn is to be stopped; the cache's version; the field's value.
local lease, log, stop_request, cache, cache_version = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local new_holder, lease_ms, empties_log, cache_field = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local holder = redis.call('GET', lease)
if holder then
  local runner, gen = holder:match('^(.*):(%d+)$')
  local new_runner, new_gen = new_holder:match('^(.*):(%d+)$')
  if runner ~= new_runner or tonumber(gen) > tonumber(new_gen) then return {0, false, false} end
end
if empties_log == '1' then
  -- A log that has its end is of a turn that is over: who claimed it long ago and slept comes too late. An entry's kind
  -- is its 20th byte, after the heads of its array and of the 16 bytes of the turn's id; 4 is the end.
  local last = redis.pcall('XREVRANGE', log, '+', '-', 'COUNT', 1)
  if last[1] and last[1][2][2]:byte(20) == 4 then return {0, false, false} end
  redis.call('DEL', log)
end
redis.call('SET', lease, new_holder, 'PX', lease_ms)
local taken = 1 + redis.call('EXISTS', stop_request)
if not cache then return {taken, false, false} end
local value = redis.pcall('HGET', cache, cache_field)
if type(value) == 'table' then value = false end -- an error: the key is no hash, which must not cost the lease
return {taken, redis.call('GET', cache_version), value}
