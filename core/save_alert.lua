-- Saves an alert, with the first moment and the count of the same one before it. Answers: how many alerts there are.
local alerts = KEYS[1]
local subject, alert_json = ARGV[1], ARGV[2]

local alert, previous_json = cjson.decode(alert_json), redis.call('HGET', alerts, subject)
if previous_json then
  local previous = cjson.decode(previous_json)
  alert.first_at, alert.times = previous.first_at, previous.times + 1
end
if next(alert.fields) == nil then alert.fields = nil end -- cjson would encode an empty object as an array
redis.call('HSET', alerts, subject, cjson.encode(alert))
return redis.call('HLEN', alerts)
