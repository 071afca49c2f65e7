-- Counts one more, by the generic cell rate algorithm. The key holds the theoretical arrival time in microseconds: the
-- moment at which all that was counted is forgotten. Redis's own clock, so that every process agrees. limit: 0 for none.
-- A moment that is farther away than a window, as after a clock that ran ahead was set back, becomes the farthest.
-- The last two keys and the last four arguments may be left out. With them a turn joins those that are being opened, in
-- the same step and only while fewer than queue_limit wait or are being opened.
-- Answers: 1 if it was counted, 0 if too many were, -1 if the queue is full; how many are left; milliseconds until all
-- are; milliseconds to wait for one.
local arrival, queue, opening = KEYS[1], KEYS[2], KEYS[3]
local limit, window_seconds, group, queue_limit, turn, opening_seconds =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- What waits in the queue is in no runner's hands. `lag` would say so, but is unknown after some deletions.
local function count_taken()
  for _, fields in ipairs(redis.call('XINFO', 'GROUPS', queue)) do
    local named = {}
    for at = 1, #fields, 2 do named[fields[at]] = fields[at + 1] end
    if named['name'] == group then return named['pending'] end
  end
  return 0
end

if queue then
  redis.call('ZREMRANGEBYSCORE', opening, '-inf', now) -- whoever opened them has died
  local length = redis.call('XLEN', queue)
  local waiting = length + redis.call('ZCARD', opening)
  if waiting >= tonumber(queue_limit) and length > 0 then waiting = waiting - count_taken() end
  if waiting >= tonumber(queue_limit) then return {-1, 0, 0, 0} end
end

local left, reset_ms = 0, 0
if tonumber(limit) > 0 then
  local window = window_seconds * 1000000
  local interval = window / limit
  local earlier = math.max(tonumber(redis.call('GET', arrival) or 0), now)
  if earlier > now + window then
    earlier = now + window
    redis.call('SET', arrival, string.format('%.0f', earlier), 'EX', window_seconds)
  end
  local later = earlier + interval
  if later - now > window + 1 then
    return {0, 0, math.ceil((earlier - now) / 1000), math.ceil((later - now - window) / 1000)}
  end
  reset_ms = math.ceil((later - now) / 1000)
  left = math.floor((window - (later - now)) / interval + 0.0001)
  redis.call('SET', arrival, string.format('%.0f', later), 'PX', reset_ms)
end
if queue then redis.call('ZADD', opening, now + opening_seconds * 1000000, turn) end
return {1, left, reset_ms, 0}
