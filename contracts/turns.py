"""How generation tasks wait in Redis: each principal's by priority, and one of each in turn.

`GENERATE_STREAM` has an entry for every task that waits; who reads an entry may take one task,
which is that of the principal whose turn it is (ADR 32). The scripts run in Redis, so that engines
and services see each step whole.
"""

from __future__ import annotations

from contracts.transport import GENERATE_STREAM, output_stream

TURNS = "memit:turns"
"""List of the principals of which tasks wait; the first has the next turn."""


ARRIVALS = "memit:arrivals"
"""How many tasks ever came."""
_STEP = 10**12
"""Between the scores of two priorities: more tasks than come in a lifetime."""


def waiting_tasks(principal: str) -> str:
    """Sorted set of the ids of its waiting tasks: by priority, then by arrival."""
    return f"memit:waiting-tasks:{principal}"


def task_key(task_id: str) -> str:
    """JSON `GenerateTask`; expires with the stream of its answer."""
    return f"memit:task:{task_id}"


PUT = f"""
local principal, id, body, seconds, priority = unpack(ARGV)
redis.call('SET', '{task_key("")}' .. id, body, 'EX', seconds)
local score = (priority or 0) * {_STEP} + redis.call('INCR', '{ARRIVALS}')
local waiting = '{waiting_tasks("")}' .. principal
redis.call('ZADD', waiting, score, id)
if redis.call('ZCARD', waiting) == 1 then
  redis.call('RPUSH', '{TURNS}', principal)
end
return redis.call('XADD', '{GENERATE_STREAM}', '*', 'principal', principal)
"""
"""Let a task wait; takes principal, id, JSON, seconds to live, its priority; gives the entry."""

TAKE = f"""
local tasks = {{}}
while #tasks < tonumber(ARGV[1]) do
  local principal = redis.call('LPOP', '{TURNS}')
  if not principal then break end
  local waiting = '{waiting_tasks("")}' .. principal
  local id = redis.call('ZPOPMIN', waiting)[1]
  if redis.call('EXISTS', waiting) == 1 then redis.call('RPUSH', '{TURNS}', principal) end
  if id then
    local body = redis.call('GET', '{task_key("")}' .. id)
    redis.call('DEL', '{task_key("")}' .. id)
    local stream = '{output_stream("")}' .. id
    if body and redis.pcall('XLEN', stream) == 1 then
      redis.call('XADD', stream, '*', 'event', ARGV[2])
      tasks[#tasks + 1] = body
    end
  end
end
return tasks
"""
"""Take so many tasks whose clients still wait, or all; gives their JSON.

Takes also the event that tells each client's stream who has its task, so that the service knows
it if that one dies. A stream with more than the service's own entry is another task's already.
"""

FORGET = f"""
local principal, id, entry = unpack(ARGV)
local waiting = '{waiting_tasks("")}' .. principal
redis.call('DEL', '{task_key("")}' .. id)
if redis.call('ZREM', waiting, id) == 0 then return 0 end
if redis.call('EXISTS', waiting) == 0 then redis.call('LREM', '{TURNS}', 0, principal) end
return redis.call('XDEL', '{GENERATE_STREAM}', entry)
"""
"""Nobody wants a task any more; takes principal, id and entry. Not if an engine took it: its entry
may then stand for another's. One entry too many only finds nothing to take."""
