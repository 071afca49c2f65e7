"""A runner's side of the log: one script a tick carries the new text of every turn it runs."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from time import monotonic
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

from chat.turns.log import (
    APPEND,
    KEPT_WHILE_OPEN_SECONDS,
    LEASE_MS,
    RENEWED,
    WAKE_UPS,
    Append,
    Entry,
    EntryKind,
    LeaseLost,
    encode_appends,
    encode_entry,
    lease_key,
    log_key,
    take_lease,
)
from history.models import Turn

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.04
MAX_TICK_SECONDS = 0.08
TICK_SECONDS_PER_TURN = 0.0004
"""Under load a tick is wider, so that more tokens share one read, one entry and one message."""
SLOT_SECONDS = 0.02
"""Turns whose ticks fall into one slot share a script. Each keeps its own phase: all at once would be late together."""
RENEW_SECONDS = 5.0
RETRY_SECONDS = 0.25
BATCH = 500
"""Turns in one script: a longer one would keep Redis busy for others."""


class LiveText:
    """The text of one turn while this runner writes it: all of it, and how much of it the log has."""

    __slots__ = (
        *("gen", "is_flushed", "is_lost", "is_uncertain", "keys", "leased", "notes", "renewed_at", "runner", "told"),
        *("is_dirty", "resting", "slot", "ticked_at", "turn", "_at", "_parts", "_pending", "_sent"),
    )

    def __init__(self, turn: Turn, runner: str) -> None:
        self.turn = turn
        self.runner = runner
        self.gen = turn.gen
        self.keys = (lease_key(turn.pk), log_key(turn.pk))
        self.leased = self.holder
        self.renewed_at = monotonic()
        self.is_uncertain = False  # what the log holds is unknown, or gone
        self.is_lost = False
        self.is_flushed = False  # the log has the outcome
        self.told: Callable[[], None] = lambda: None  # called when either comes true
        self.notes: dict[EntryKind, str] = {}
        self.is_dirty = False  # there is something the log does not have
        self.slot: int | None = None  # when it is due, if it is
        self.ticked_at = 0.0
        self.resting: asyncio.Future[None] | None = None  # its reader, until the next tick
        self._parts: tuple[list[str], list[str]] = ([], [])  # text, reasoning
        self._pending = [0, 0]  # how many parts the entries under way end with
        self._sent = [0, 0]  # how many parts the log has
        self._at = [0, 0]  # how many characters those are

    @property
    def holder(self) -> str:
        return f"{self.runner}:{self.gen}"

    @property
    def text(self) -> str:
        return "".join(self._parts[EntryKind.TEXT])

    @property
    def reasoning(self) -> str:
        return "".join(self._parts[EntryKind.REASONING])

    @property
    def is_empty(self) -> bool:
        return not self._parts[EntryKind.TEXT] and not self._parts[EntryKind.REASONING]

    @property
    def is_new(self) -> bool:
        """Whether the log has nothing of it."""
        return not self._sent[0] and not self._sent[1]

    def add(self, kind: EntryKind, text: str) -> None:
        self._parts[kind].append(text)

    def rewind(self, gen: int) -> None:
        """Begin again under another generation: the log has nothing."""
        self.gen = gen
        self._sent, self._at = [0, 0], [0, 0]
        self.is_flushed = False

    def pending(self) -> list[Entry]:
        """Return what the log does not have yet: who answers, then reasoning, text, and how it ended."""
        turn = self.turn.pk.bytes
        entries = []
        if self.is_new and EntryKind.BEGUN in self.notes:
            entries.append(Entry(turn, EntryKind.BEGUN, self.gen, 0, self.notes[EntryKind.BEGUN]))
        for kind in (EntryKind.REASONING, EntryKind.TEXT):
            if new := self._parts[kind][self._sent[kind] :]:
                entries.append(Entry(turn, kind, self.gen, self._at[kind], "".join(new)))
            self._pending[kind] = len(self._parts[kind])
        if EntryKind.OUTCOME in self.notes and not self.is_flushed:
            entries.append(Entry(turn, EntryKind.OUTCOME, self.gen, 0, self.notes[EntryKind.OUTCOME]))
        return entries

    def sent(self, entries: list[Entry]) -> None:
        """Note that the log has `entries`. Parts that came in while they were under way stay pending."""
        self._sent = self._pending.copy()
        for entry in entries:
            if entry.kind in (EntryKind.TEXT, EntryKind.REASONING):
                self._at[entry.kind] += len(entry.text)
            elif entry.kind == EntryKind.OUTCOME:
                self.is_flushed = True
                self.told()


class LogWriter:
    """Appends for every turn of this process. `advance` gives a turn its next generation in the database, or fails."""

    def __init__(self, redis: Redis, advance: Callable[[Turn], Awaitable[bool]]) -> None:
        self._redis = redis
        self._advance = advance
        self._append = redis.register_script(APPEND)
        self._live: dict[UUID, LiveText] = {}
        self._slots: dict[int, list[LiveText]] = {}
        self._urgent: list[LiveText] = []
        self._wake = asyncio.Event()
        self._wakes_at = 0.0

    def open(self, live: LiveText) -> None:
        self._live[live.turn.pk] = live

    def close(self, live: LiveText) -> None:
        self._live.pop(live.turn.pk, None)
        live.is_dirty = False

    def changed(self, live: LiveText, *, urgently: bool = False) -> None:
        """Note that `live` has something new; the first token of a turn, and its end, do not wait for the tick."""
        live.is_dirty = True
        if urgently:
            self._urgent.append(live)
            self._wake.set()
        elif live.slot is None:
            self._schedule(live)

    async def beat(self, live: LiveText) -> None:
        """Return at the next tick of `live`, just before it is flushed: the pace at which its provider is read."""
        resting = live.resting = asyncio.get_running_loop().create_future()
        if live.slot is None:
            self._schedule(live)
        await resting

    async def run(self) -> None:
        """Read and flush each turn once a tick, and renew leases, until cancelled."""
        next_renewal = 0.0
        while True:
            self._wakes_at = min(min(self._slots, default=math.inf) * SLOT_SECONDS, next_renewal)
            if not self._urgent and (pause := self._wakes_at - monotonic()) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):  # `wait_for` loses cancellations before Python 3.12
                        await self._wake.wait()
            self._wake.clear()
            now = monotonic()
            due = self._take_due(now)
            if due:
                await self._let_read(due)
            urgent, self._urgent = self._urgent, []
            batch = {live: None for live in (*urgent, *due) if live.is_dirty}  # in order, each once
            if now >= next_renewal:
                batch |= dict.fromkeys(self._unrenewed(now))
                next_renewal = now + RENEW_SECONDS / 5
            if batch:
                await self._flush(batch, now)

    def _schedule(self, live: LiveText) -> None:
        """Give `live` a slot a tick after its last one, or the next slot."""
        tick = min(MAX_TICK_SECONDS, max(TICK_SECONDS, TICK_SECONDS_PER_TURN * len(self._live)))
        due = max(monotonic(), live.ticked_at + tick)
        live.slot = math.ceil(due / SLOT_SECONDS)
        self._slots.setdefault(live.slot, []).append(live)
        if due < self._wakes_at:
            self._wake.set()

    def _take_due(self, now: float) -> list[LiveText]:
        due: list[LiveText] = []
        for slot in sorted(slot for slot in self._slots if slot * SLOT_SECONDS <= now):
            due += self._slots.pop(slot)
        for live in due:
            live.slot, live.ticked_at = None, now
        return due

    async def _let_read(self, due: Iterable[LiveText]) -> None:
        """Let those who rest read what has arrived meanwhile."""
        for live in due:
            if live.resting is not None and not live.resting.done():
                live.resting.set_result(None)
        for _ in range(3):  # they resume; the loop reads their sockets; they take what it read
            await asyncio.sleep(0)

    def _unrenewed(self, now: float) -> list[LiveText]:
        """Return the turns whose lease is to be renewed although they say nothing."""
        return [live for live in self._live.values() if now - live.renewed_at > RENEW_SECONDS]

    async def _flush(self, batch: Iterable[LiveText], now: float) -> None:
        certain = [live for live in batch if not live.is_uncertain]
        uncertain = [live for live in batch if live.is_uncertain]
        for live in (*certain, *uncertain):
            live.is_dirty = False
        for first in range(0, len(certain), BATCH):
            await self._append_batch(certain[first : first + BATCH], now)
        if uncertain:
            await self._begin_anew(uncertain)

    async def _append_batch(self, batch: list[LiveText], now: float) -> None:
        pending = [(live, live.pending()) for live in batch]
        appends = [
            Append(
                *live.keys,
                live.holder,
                live.is_new or now - live.renewed_at > RENEW_SECONDS,
                len(entries),
            )
            for live, entries in pending
        ]
        arguments: list[int | str | bytes] = [LEASE_MS, KEPT_WHILE_OPEN_SECONDS, WAKE_UPS, encode_appends(appends)]
        arguments += [encode_entry(entry) for _live, entries in pending for entry in entries]
        try:
            answers = await self._append(args=arguments)
        except (RedisError, OSError) as error:
            # Whether these entries arrived is unknown: appended again they could be there twice.
            logger.warning("Log unreachable", extra={"turns": len(batch), "error": type(error).__name__})
            self._doubt(live for live, entries in pending if entries)
            await asyncio.sleep(RETRY_SECONDS)
            return
        for (live, entries), answer in zip(pending, answers, strict=True):
            if answer > 0:
                live.sent(entries)
                if answer == RENEWED:
                    live.renewed_at = now
            elif answer == 0:
                self._lose(live)
            else:
                self._doubt([live])

    def _doubt(self, lives: Iterable[LiveText]) -> None:
        for live in lives:
            if live.turn.pk in self._live:  # else it ended meanwhile, and its lease with it
                live.is_uncertain = True
                self.changed(live)

    async def _begin_anew(self, uncertain: list[LiveText]) -> None:
        """Write turns whole under their next generation: their log is unknown, or gone."""
        results = await asyncio.gather(*map(self._regain, uncertain), return_exceptions=True)
        failures = {}
        for live, result in zip(uncertain, results, strict=True):
            if isinstance(result, LeaseLost):
                self._lose(live)
                continue
            if result is not None:  # Redis or the database is still away
                failures[type(result).__name__] = result
            self.changed(live)
        if failures:
            logger.warning("Logs not begun anew yet", extra={"turns": len(uncertain), "error": ",".join(failures)})
            await asyncio.sleep(RETRY_SECONDS)

    async def _regain(self, live: LiveText) -> None:
        """Take the turn again under its next generation; raises Lost if somebody else has it."""
        if live.leased == live.holder:
            if not await self._advance(live.turn):
                raise LeaseLost
            live.rewind(live.turn.gen)
        taken = await take_lease(self._redis, live.turn.pk, live.holder, instead_of=live.leased, empties_log=True)
        if not taken:
            raise LeaseLost
        live.leased = live.holder
        live.renewed_at = monotonic()
        live.is_uncertain = False

    def _lose(self, live: LiveText) -> None:
        logger.warning("Turn lost to another runner", extra={"turn_id": live.turn.pk, "gen": live.gen})
        self.close(live)
        live.is_lost = True
        live.told()
