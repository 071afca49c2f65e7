-- Appends for many turns at once, each under its lease, and sends all that was appended to every web process.
-- appends: msgpack of an array of Append (chat/turns/log.py), which costs the client less than an argument for each field.
-- Further arguments: the entries of all the turns, in that order.
-- Answers, for each turn: 1 appended, 2 renewed too, 0 somebody else holds the lease, -1 nobody does, or the holder
-- under another generation, -2 the log is not as long as its writer left it.
local lease_ms, log_seconds, channel, appends = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local call = redis.call -- looked up once, not for each entry
local batch, leases = cmsgpack.unpack(appends), {}
for at, append in ipairs(batch) do leases[at] = append[1] end
local holders = call('MGET', unpack(leases))
local answers, appended, first = {}, {}, 5
for at, append in ipairs(batch) do
  local log, holder, renews, length, count = append[2], append[3], append[4], append[5], append[6]
  local found = holders[at]
  if found ~= holder then
    local is_ours = not found or found:match('^(.*):') == holder:match('^(.*):')
    answers[#answers + 1] = is_ours and -1 or 0
  elseif redis.pcall('XLEN', log) ~= length then -- pcall: a key that is no log must not cost the other turns their script
    answers[#answers + 1] = -2
  else
    for entry = first, first + count - 1 do
      call('XADD', log, '*', 'e', ARGV[entry])
      appended[#appended + 1] = ARGV[entry]
    end
    if renews then
      call('PEXPIRE', leases[at], lease_ms)
      call('EXPIRE', log, log_seconds)
    end
    answers[#answers + 1] = renews and 2 or 1
  end
  first = first + count
end
if #appended > 0 then
  -- '\221' begins a msgpack array whose length is four bytes.
  call('PUBLISH', channel, '\221' .. struct.pack('>I4', #appended) .. table.concat(appended))
end
return answers
