-- Ends a turn's log, once however often it is called, and drops its lease, its mark, who has it on board, what was
-- sent for it, what a program asked with it and its queue entry.
-- queue_entry: empty for none. The last two keys and the last five arguments write the answer cache, and may be left
-- out: the field is written if the cache's version is still cache_version_read; a key that is no hash is dropped.
local lease, log, queue, mark, aboard, sent, asked, cache, cache_version =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local holder, end_entry, log_seconds, group, queue_entry, channel,
  cache_field, cache_value, cache_seconds, cache_version_read, max_cached =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6],
  ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]

local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
if #last == 0 or last[1][2][2] ~= end_entry then
  redis.call('XADD', log, '*', 'e', end_entry)
  redis.call('PUBLISH', channel, '\221' .. struct.pack('>I4', 1) .. end_entry) -- a msgpack array of one
end
redis.call('EXPIRE', log, log_seconds)
if redis.call('GET', lease) == holder then redis.call('DEL', lease) end
redis.call('DEL', mark, aboard, sent)
redis.call('UNLINK', asked)
if queue_entry ~= '' then
  redis.call('XACK', queue, group, queue_entry)
  redis.call('XDEL', queue, queue_entry)
end
if cache and (redis.call('GET', cache_version) or '') == cache_version_read then
  if type(redis.pcall('HSET', cache, cache_field, cache_value)) == 'table' then
    redis.call('DEL', cache)
  else
    if redis.call('HLEN', cache) > tonumber(max_cached) then
      redis.call('HDEL', cache, redis.call('HRANDFIELD', cache))
    end
    redis.call('EXPIRE', cache, cache_seconds)
  end
end
return 1
