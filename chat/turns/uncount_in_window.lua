-- Takes back one count of count_in_window.lua, in its hour and among the turns that are being opened.
local arrival, opening = KEYS[1], KEYS[2]
local limit, window_seconds, turn = ARGV[1], ARGV[2], ARGV[3]

redis.call('ZREM', opening, turn)
local later = tonumber(limit) > 0 and redis.call('GET', arrival)
if later then
  local interval = window_seconds * 1000000 / limit
  redis.call('SET', arrival, string.format('%.0f', tonumber(later) - interval), 'KEEPTTL')
end
