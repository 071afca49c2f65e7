-- Takes back one count of count_in_window.lua.
local arrival = KEYS[1]
local limit, window_seconds = ARGV[1], ARGV[2]

local later = redis.call('GET', arrival)
if later then
  local interval = window_seconds * 1000000 / limit
  redis.call('SET', arrival, string.format('%.0f', tonumber(later) - interval), 'KEEPTTL')
end
