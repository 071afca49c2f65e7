-- Reads turns of temporary conversations; the ids of the turns come after the prefixes of their keys.
-- Answers: of each turn its row and its number; neither where it is not there, or a key is none of ours.
local prefix, place_prefix = ARGV[1], ARGV[2]

local found = {}
for at = 3, #ARGV do
  local turn = ARGV[at]
  local conversation = redis.pcall('GET', place_prefix .. turn)
  local fields = type(conversation) == 'string'
    and redis.pcall('HMGET', prefix .. conversation, 'turn:' .. turn, 'seq:' .. turn)
  found[at - 2] = fields and not fields.err and fields or { false, false }
end
return found
