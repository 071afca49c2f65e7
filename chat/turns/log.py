"""The live text of a turn, on Redis: what a runner appends and readers follow.

Each turn has a stream `turn:<id>:log`, and a lease `turn:<id>:lease` = `<runner>:<gen>` that says who may append.
An append checks the lease, writes the stream and wakes every web process in one script, so that nothing a reader was
shown is missing from the stream and nothing a runner without the lease sends is in either. The log is the truth;
the wake-up carries the same entries so that a reader seldom has to ask for them.

Offsets are in characters (Unicode code points), of text and of reasoning separately.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any
from uuid import UUID

import msgspec
from redis import Redis as SyncRedis
from redis.asyncio import Redis

QUEUE = "turns"
GROUP = "runners"
WAKE_UPS = "turns:woken"
"""The channel that carries each script's entries to every web process, and word of turns that were opened."""
CONTROL = "turns:control"
"""The channel that carries the ids of turns to stop to every runner."""

LEASE_MS = 15_000
KEPT_WHILE_OPEN_SECONDS = 3_600
KEPT_AFTER_END_SECONDS = 60
STOP_SECONDS = 600


class EntryKind(IntEnum):
    TEXT = 0
    REASONING = 1
    BEGUN = 2  # text is a Begun as JSON
    OUTCOME = 3  # text holds the Outcome as JSON: how the turn ended, before it is saved
    END = 4  # the turn is saved; text is its owner's id
    WAITING = 6  # `at` is its place in the line; only between a hub and its watchers
    OPENED = 5  # the turn waits for a runner; text is its owner's id. Only a wake-up: the log begins later


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry: `at` is the offset of its first character, `gen` the generation it belongs to."""

    turn: bytes
    kind: int
    gen: int
    at: int = 0
    text: str = ""


class Begun(msgspec.Struct, frozen=True, array_like=True):
    """Who answers, in whose place and why, and at what price: keys, an error's code, a price as JSON."""

    model: str = ""
    provider: str = ""
    instead_of: str = ""
    instead_because: str = ""
    price: str = ""
    is_from_cache: bool = False


class Append(msgspec.Struct, array_like=True, gc=False):
    """What one turn appends: `count` entries; `renews` its lease and its log's life too."""

    lease: str
    log: str
    holder: str
    renews: bool
    count: int


class Taken(IntEnum):
    """Whether a lease was taken. `STOP`: it was, and somebody wants the turn to stop."""

    NO = 0
    YES = 1
    STOP = 2


@dataclass(frozen=True, slots=True)
class LookUp:
    """What is looked up beside a lease: one field of a hash, and the value of a key that says how current it is."""

    hash: str
    version_key: str
    field: bytes


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept beside an end, for `seconds`: one more field of a hash of at most `most`, where `version` still holds."""

    hash: str
    version_key: str
    field: bytes
    version: bytes
    value: bytes
    seconds: int
    most: int


class LeaseLost(Exception):
    """The lease is somebody else's: whatever this runner still has of the turn is void."""


encode_entry = encode_entries = encode_appends = msgspec.msgpack.Encoder().encode
decode_entry = msgspec.msgpack.Decoder(Entry).decode
decode_entries = msgspec.msgpack.Decoder(list[Entry]).decode

# KEYS: queue, queued mark. ARGV: turn, the mark's seconds, channel, word of the turn.
ENQUEUE = """
redis.call('XADD', KEYS[1], '*', 'turn', ARGV[1])
redis.call('SET', KEYS[2], '1', 'EX', ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
"""

RENEWED = 2

# ARGV: lease ms, log seconds, channel, an array of Append in msgpack (each argument costs the client more than this),
# then the entries of all. Answers for each turn: 1 appended, 2 renewed too,
# 0 somebody else holds the lease, -1 nobody does. '\221' begins a msgpack array of 32-bit length.
APPEND = """
local answers, woken, at = {}, {}, 5
for _, turn in ipairs(cmsgpack.unpack(ARGV[4])) do
  local lease, log = turn[1], turn[2]
  local holder = redis.call('GET', lease)
  if holder == turn[3] then
    for i = at, at + turn[5] - 1 do
      redis.call('XADD', log, '*', 'e', ARGV[i])
      woken[#woken + 1] = ARGV[i]
    end
    if turn[4] then
      redis.call('PEXPIRE', lease, ARGV[1])
      redis.call('EXPIRE', log, ARGV[2])
    end
    answers[#answers + 1] = turn[4] and 2 or 1
  else
    answers[#answers + 1] = holder and 0 or -1
  end
  at = at + turn[5]
end
if #woken > 0 then
  redis.call('PUBLISH', ARGV[3], '\\221' .. struct.pack('>I4', #woken) .. table.concat(woken))
end
return answers
"""

# KEYS: lease, log, stop request, and where something is looked up: hash, version. ARGV: new holder, lease ms, old holder
# or '', '1' to empty the log, as a new generation does, and the hash's field. A lease that is already the new holder's
# counts as taken: the answer to a first try may have been lost. Answers 0 not taken, 1 taken, 2 taken and the turn is
# to stop; then the version and the field's value, if it has one. A key that is no hash must not cost the lease.
TAKE_LEASE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] and holder ~= ARGV[3] then return {0, false, false} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if ARGV[4] == '1' then redis.call('DEL', KEYS[2]) end
local taken = 1 + redis.call('EXISTS', KEYS[3])
if not KEYS[4] then return {taken, false, false} end
local value = redis.pcall('HGET', KEYS[4], ARGV[5])
if type(value) == 'table' then value = false end
return {taken, redis.call('GET', KEYS[5]), value}
"""

# KEYS: lease. ARGV: holder.
DROP_LEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""

# KEYS: lease, log, queue, queued mark, and where something is kept: hash, version. ARGV: holder, END entry, log seconds,
# group, queue entry or '', channel, and the hash's field, its value, its seconds, the version that must hold, the most
# fields. What is no hash is dropped.
END = """
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
if #last == 0 or last[1][2][2] ~= ARGV[2] then
  redis.call('XADD', KEYS[2], '*', 'e', ARGV[2])
  redis.call('PUBLISH', ARGV[6], '\\221' .. struct.pack('>I4', 1) .. ARGV[2])
end
redis.call('EXPIRE', KEYS[2], ARGV[3])
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
redis.call('DEL', KEYS[4])
if ARGV[5] ~= '' then
  redis.call('XACK', KEYS[3], ARGV[4], ARGV[5])
  redis.call('XDEL', KEYS[3], ARGV[5])
end
if KEYS[5] and (redis.call('GET', KEYS[6]) or '') == ARGV[10] then
  if type(redis.pcall('HSET', KEYS[5], ARGV[7], ARGV[8])) == 'table' then
    redis.call('DEL', KEYS[5])
  else
    if redis.call('HLEN', KEYS[5]) > tonumber(ARGV[11]) then
      redis.call('HDEL', KEYS[5], redis.call('HRANDFIELD', KEYS[5]))
    end
    redis.call('EXPIRE', KEYS[5], ARGV[9])
  end
end
return 1
"""


def lease_key(turn_id: UUID) -> str:
    return f"turn:{turn_id}:lease"


def log_key(turn_id: UUID) -> str:
    return f"turn:{turn_id}:log"


def stop_key(turn_id: UUID) -> str:
    return f"turn:{turn_id}:stop"


def queued_key(turn_id: UUID) -> str:
    """Marks that the turn has an entry in the queue; without it the sweep makes a new one."""
    return f"turn:{turn_id}:queued"


class Replay(msgspec.Struct):
    """What a log says: the text of its last generation, who answered, how it ended."""

    gen: int = 0
    text: str = ""
    reasoning: str = ""
    begun: str = ""
    outcome: str = ""
    is_ended: bool = False
    reasoning_ms: int = (
        0  # from the first reasoning to the first text, or to the last reasoning; known to `recall` only
    )

    @property
    def was_shown(self) -> bool:
        return bool(self.text or self.reasoning)


def replay(entries: Iterable[Entry]) -> Replay:
    """Return what the entries, in order, add up to. A later generation voids the earlier ones."""
    result = Replay()
    for entry in entries:
        if entry.gen > result.gen and entry.kind != EntryKind.END:
            result = Replay(gen=entry.gen)
        match entry.kind:
            case EntryKind.TEXT:
                result.text = result.text[: entry.at] + entry.text
            case EntryKind.REASONING:
                result.reasoning = result.reasoning[: entry.at] + entry.text
            case EntryKind.BEGUN:
                result.begun = entry.text
            case EntryKind.OUTCOME:
                result.outcome = entry.text
            case EntryKind.END:
                result.is_ended = True
    return result


async def replay_log(redis: Redis, turn_id: UUID) -> Replay:
    """Return what the log adds up to, for whoever ends a turn in its runner's place."""
    rows: Any = await redis.xrange(log_key(turn_id))
    entries = _decode(rows)
    result = replay(entries)
    times = {  # when its entries came, by the store's clock
        kind: [
            _ms(row) for row, entry in zip(rows, entries, strict=True) if (entry.kind, entry.gen) == (kind, result.gen)
        ]
        for kind in (EntryKind.REASONING, EntryKind.TEXT)
    }
    if thinking := times[EntryKind.REASONING]:
        until = times[EntryKind.TEXT][0] if times[EntryKind.TEXT] else thinking[-1]
        result.reasoning_ms = max(0, until - thinking[0])
    return result


async def read_log(redis: Redis, turn_id: UUID) -> list[Entry]:
    """Return the whole log, oldest first."""
    return _decode(await redis.xrange(log_key(turn_id)))


def read_log_sync(redis: SyncRedis, turn_id: UUID) -> list[Entry]:
    """Return the whole log, oldest first, to a page that is not on a loop."""
    return _decode(redis.xrange(log_key(turn_id)))


def _ms(row: Any) -> int:
    """Return when a row was appended: its id begins with the milliseconds."""
    return int(row[0].partition(b"-")[0])


def _decode(rows: Any) -> list[Entry]:
    return [decode_entry(fields[b"e"]) for _, fields in rows]


async def take_lease(
    redis: Redis, turn_id: UUID, holder: str, *, instead_of: str = "", empties_log: bool = False
) -> Taken:
    """Take the lease if it is free, or is `instead_of`'s; return whether it was."""
    keys = (lease_key(turn_id), log_key(turn_id), stop_key(turn_id))
    arguments = (holder, LEASE_MS, instead_of, "1" if empties_log else "0")
    taken, *_nothing = await redis.register_script(TAKE_LEASE)(keys=keys, args=arguments)
    return Taken(taken)


async def take_lease_and_look_up(
    redis: Redis, turn_id: UUID, holder: str, look_up: LookUp
) -> tuple[Taken, bytes, bytes | None]:
    """Take the lease if it is free, and empty the log; return whether it was, and the version and value looked up."""
    keys = (lease_key(turn_id), log_key(turn_id), stop_key(turn_id), look_up.hash, look_up.version_key)
    arguments = (holder, LEASE_MS, "", "1", look_up.field)
    taken, version, value = await redis.register_script(TAKE_LEASE)(keys=keys, args=arguments)
    return Taken(taken), version or b"", value


async def give_lease_back(redis: Redis, turn_id: UUID, holder: str) -> None:
    """Drop the lease if it is the holder's."""
    await redis.eval(DROP_LEASE, 1, lease_key(turn_id), holder)


async def end_log(
    redis: Redis,
    turn_id: UUID,
    *,
    gen: int,
    owner_id: int | None = None,
    characters: int = 0,
    holder: str = "",
    queue_entry: bytes = b"",
    keep: Keep | None = None,
) -> None:
    """Tell readers that the turn is saved, and forget its work: lease, mark and queue entry. May be repeated.

    `characters` is the length of the saved answer: a reader that has less knows that something is missing.
    """
    entry = encode_entry(
        Entry(turn_id.bytes, EntryKind.END, gen, characters, "" if owner_id is None else str(owner_id))
    )
    keys = [lease_key(turn_id), log_key(turn_id), QUEUE, queued_key(turn_id)]
    arguments: list[str | bytes | int] = [holder, entry, KEPT_AFTER_END_SECONDS, GROUP, queue_entry, WAKE_UPS]
    if keep is not None:
        keys += [keep.hash, keep.version_key]
        arguments += [keep.field, keep.value, keep.seconds, keep.version, keep.most]
    await redis.register_script(END)(keys=keys, args=arguments)


async def request_stop(redis: Redis, turn_id: UUID) -> None:
    """Ask whoever runs the turn to stop it. The key outlives a lost message."""
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.set(stop_key(turn_id), b"1", ex=STOP_SECONDS)
        pipeline.publish(CONTROL, turn_id.bytes)
        await pipeline.execute()
