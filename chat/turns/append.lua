-- Appends for many turns at once, each under its lease, and sends all that was appended to every web process.
-- appends: msgpack of an array of Append (chat/turns/log.py), which costs the client less than an argument for each field.
-- Further arguments: the entries of all the turns, in that order.
-- Answers, for each turn: 1 appended, 2 renewed too, 0 somebody else holds the lease, -1 nobody does.
local lease_ms, log_seconds, channel, appends = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local answers, appended, first = {}, {}, 5
for _, append in ipairs(cmsgpack.unpack(appends)) do
  local lease, log, holder, renews, count = append[1], append[2], append[3], append[4], append[5]
  local found = redis.call('GET', lease)
  if found == holder then
    for at = first, first + count - 1 do
      redis.call('XADD', log, '*', 'e', ARGV[at])
      appended[#appended + 1] = ARGV[at]
    end
    if renews then
      redis.call('PEXPIRE', lease, lease_ms)
      redis.call('EXPIRE', log, log_seconds)
    end
    answers[#answers + 1] = renews and 2 or 1
  else
    answers[#answers + 1] = found and 0 or -1
  end
  first = first + count
end
if #appended > 0 then
  -- '\221' begins a msgpack array whose length is four bytes.
  redis.call('PUBLISH', channel, '\221' .. struct.pack('>I4', #appended) .. table.concat(appended))
end
return answers
