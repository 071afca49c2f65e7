"""The log of a turn, on Redis: the live text that a runner appends and readers follow.

Each turn has a stream `turn:<id>:log`. One script checks the lease (leases.py), appends to the stream and notifies
every web process: nothing a reader was shown is missing from the stream, and nothing from a runner without the lease is
in either. The stream is the truth; the notification carries the same entries, so that readers seldom have to read it.

Offsets are in characters (Unicode code points), of text, of reasoning and of calls of tools separately.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from chat.llm.pricing import ModelPrice, read_price, read_stamp, write_price
from chat.models import LanguageModel
from chat.turns.sent_requests import read_unanswered
from core.lua import LuaScript
from core.unicode import mend
from history.progress import Outcome

logger = logging.getLogger(__name__)

WAKE_UPS = "turns:woken"
"""The pub/sub channel of notifications to web processes: what was appended, turns that were opened, and people who must
show again that they may be here."""

KEPT_WHILE_OPEN_SECONDS = 3_600
TAIL_ENTRIES = 16
"""Entries that are read first by who looks for the last one it knows; then twice as many each time."""

APPEND = LuaScript(Path(__file__).with_name("append.lua"))
RENEWED = 2
"""APPEND's answer for a turn whose lease it renewed, too."""


class EntryKind(IntEnum):
    TEXT = 0
    REASONING = 1
    BEGUN = 2  # text is a Begun as JSON
    OUTCOME = 3  # text is an Outcome as JSON: how the turn ended, before it is saved
    END = 4  # the turn is saved; text is its owner's id
    OPENED = 5  # the turn waits for a runner; text is its owner's id. Only a notification: the log begins later
    WAITING = 6  # `at` is its position in the queue; only between a hub and its watchers
    REVOKED = 7  # of no turn: something that let the person in is over; text is their id. Only a notification
    CHANGED = 8  # a conversation, whose id is `turn`; text is its owner's id. Only from `notices` to listeners
    TOOL_CALLS = 9  # text is lines of called_tools.py


GROWING: dict[int, str] = {
    EntryKind.REASONING: "reasoning",
    EntryKind.TEXT: "text",
    EntryKind.TOOL_CALLS: "tool_calls",
}
"""The kinds of what grows while a turn is written, in the order in which they come at one moment, and what a place and
a replay call them."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry: `at` is the offset of its first character, `gen` the generation it belongs to."""

    turn: bytes
    kind: int
    gen: int
    at: int = 0
    text: str = ""


class Append(msgspec.Struct, array_like=True, gc=False):
    """What APPEND does for one turn: append `count` entries; if `renews`, keep its lease and its log alive.

    `length` is how many entries the log must have: Redis may have come back without the last of them.
    """

    lease: str
    log: str
    holder: str
    renews: bool
    length: int
    count: int


class Begun(msgspec.Struct, frozen=True, array_like=True):
    """Who answers, in whose place and why, at what price, and to which request: keys of models, an error's code, a
    price as JSON, an id."""

    model: str = ""
    provider: str = ""
    instead_of: str = ""
    instead_because: str = ""
    price: str = ""
    is_from_cache: bool = False
    request: str = ""


class Replay(msgspec.Struct):
    """What a log adds up to: the text of its last generation, who answered and how it ended.

    What comes after a hole in it counts for nothing, not even that the answer is whole.
    """

    gen: int = 0
    text: str = ""
    reasoning: str = ""
    tool_calls: str = ""
    begun: str = ""  # as encode_begun wrote it; empty if nobody began
    outcome: str = ""  # as encode_outcome wrote it; empty if it is not known
    is_ended: bool = False
    has_hole: bool = False
    reasoning_ms: int = 0  # first reasoning to first text, or to the last reasoning; only replay_log knows

    @property
    def was_shown(self) -> bool:
        return bool(self.text or self.reasoning or self.tool_calls)

    @property
    def must_be_kept(self) -> bool:
        """Whether the turn is to be closed with what is here, and not run again."""
        return self.was_shown or bool(self.outcome)


_encode = encode_entries = encode_appends = msgspec.msgpack.Encoder().encode
decode_entry = msgspec.msgpack.Decoder(Entry).decode
decode_entries = msgspec.msgpack.Decoder(list[Entry]).decode


def log_key(turn_id: UUID) -> str:
    return f"turn:{turn_id}:log"


def encode_entry(entry: Entry) -> bytes:
    """Return the entry as the log has it, with its text mended where it cannot be encoded."""
    try:
        return _encode(entry)
    except UnicodeEncodeError:
        return _encode(msgspec.structs.replace(entry, text=mend(entry.text)))


def encode_begun(
    model: LanguageModel,
    instead_of: str = "",
    instead_because: str = "",
    *,
    price: ModelPrice | None = None,
    is_from_cache: bool = False,
    request: str = "",
) -> str:
    """Return the text of a BEGUN entry. With the price, whoever ends the turn charges as this process would."""
    begun = Begun(
        model=model.key,
        provider=model.provider,
        instead_of=instead_of,
        instead_because=instead_because,
        price=write_price(price) if price else "",
        is_from_cache=is_from_cache,
        request=request,
    )
    return msgspec.json.encode(begun).decode()


def decode_begun(replay: Replay) -> Begun:
    """Return who answered; an empty Begun if the log does not say, or nothing that can be read."""
    return read_begun(replay.begun)


def read_begun(text: str) -> Begun:
    """Return who answers by the text of a BEGUN entry; an empty Begun for nothing, or nothing that can be read."""
    try:
        begun = msgspec.json.decode(text, type=Begun) if text else Begun()
        if begun.price:
            read_price(begun.price)
    except msgspec.MsgspecError:
        logger.warning("Log not believed", extra={"kind": "begun"})
        return Begun()
    return begun


def encode_outcome(outcome: Outcome) -> str:
    """Return the text of an OUTCOME entry: without what grew, which the log has already."""
    return msgspec.json.encode(msgspec.structs.replace(outcome, answer="", reasoning="", tool_calls=None)).decode()


def decode_outcome(replay: Replay) -> Outcome | None:
    """Return how the turn ended, with its texts; None if the log does not say, or nothing that a row can hold."""
    if not replay.outcome:
        return None
    try:
        outcome = msgspec.json.decode(replay.outcome, type=Outcome)
    except msgspec.MsgspecError:
        outcome = None
    if (
        outcome is None
        or (outcome.price and read_stamp(outcome.price) is None)
        or (outcome.unanswered and not read_unanswered(outcome.unanswered))
    ):
        logger.warning("Log not believed", extra={"kind": "outcome"})
        return None
    return msgspec.structs.replace(
        outcome, answer=replay.text, reasoning=replay.reasoning, tool_calls=replay.tool_calls or None
    )


def replay(entries: Iterable[Entry]) -> Replay:
    """Return what the entries, in order, add up to. A later generation voids the earlier ones."""
    result = Replay()
    for entry in entries:
        if entry.gen > result.gen and entry.kind != EntryKind.END:
            result = Replay(gen=entry.gen)
        if entry.kind == EntryKind.END:
            result.is_ended = True
        elif not result.has_hole:
            _add(result, entry)
    return result


async def replay_log(redis: Redis, turn_id: UUID) -> Replay:
    """Return what the log adds up to and how long the model thought: for whoever ends a turn in its runner's place."""
    try:
        rows: Any = await redis.xrange(log_key(turn_id))
    except ResponseError:  # a key of another type, which nobody of ours has written
        logger.warning("Log not readable, and dropped", extra={"turn_id": turn_id})
        await redis.delete(log_key(turn_id))
        return Replay()
    read = list(_read_rows(rows))
    result = replay(entry for _row, entry in read)
    times: dict[int, list[int]] = {EntryKind.REASONING: [], EntryKind.TEXT: []}  # of the last generation
    for row, entry in read:
        if entry.gen == result.gen and entry.kind in times:
            times[entry.kind].append(_appended_at_ms(row))
    if reasoned := times[EntryKind.REASONING]:
        until = times[EntryKind.TEXT][0] if times[EntryKind.TEXT] else reasoned[-1]
        result.reasoning_ms = max(0, until - reasoned[0])
    return result


async def read_log(redis: Redis, turn_id: UUID) -> list[Entry]:
    """Return the whole log, oldest entry first."""
    return _decode_rows(await redis.xrange(log_key(turn_id)))


async def read_log_tail(redis: Redis, turn_id: UUID, is_known: Callable[[Entry], bool]) -> list[Entry]:
    """Return the log from the last entry that `is_known` on, oldest entry first; the whole log if none is."""
    tail: list[Entry] = []
    last, count = "+", TAIL_ENTRIES
    while rows := await redis.xrevrange(log_key(turn_id), max=last, count=count):
        for entry in _decode_rows(rows):
            tail.append(entry)
            if is_known(entry):
                return tail[::-1]
        oldest_id: Any = rows[-1][0]
        last, count = f"({oldest_id.decode()}", count * 2
    return tail[::-1]


def read_log_sync(redis: SyncRedis, turn_id: UUID) -> list[Entry]:
    """Return the whole log, oldest entry first, to a caller outside an event loop."""
    return _decode_rows(redis.xrange(log_key(turn_id)))


def _add(result: Replay, entry: Entry) -> None:
    if field := GROWING.get(entry.kind):
        text: str = getattr(result, field)
        result.has_hole = entry.at > len(text)
        if not result.has_hole:
            setattr(result, field, text[: entry.at] + entry.text)
        return
    match entry.kind:
        case EntryKind.BEGUN:
            result.begun = entry.text
        case EntryKind.OUTCOME:
            result.outcome = entry.text


def _decode_rows(rows: Any) -> list[Entry]:
    """Return the entries; one that cannot be read is left out, and so leaves a hole."""
    return [entry for _row, entry in _read_rows(rows)]


def _read_rows(rows: Any) -> Iterator[tuple[Any, Entry]]:
    for row in rows:
        try:
            yield row, decode_entry(row[1][b"e"])
        except (KeyError, msgspec.MsgspecError):
            logger.warning("Entry of a log not readable")


def _appended_at_ms(row: Any) -> int:
    """Return when a row was appended, by Redis's clock: its id begins with the milliseconds."""
    return int(row[0].partition(b"-")[0])
