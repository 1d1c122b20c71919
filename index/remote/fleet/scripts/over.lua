-- A session that is over and whose lanes are still held, and its chunks.
-- KEYS: over, held lanes
-- Returns: {session, lane chunk ...}; empty: there is none
local session = redis.call('SRANDMEMBER', KEYS[1])
if not session then return {} end
local answer = {session}
local held = redis.call('HGETALL', KEYS[2])
for i = 1, #held, 2 do
  if held[i + 1] == session then table.insert(answer, held[i]) end
end
return answer
