"""A runner's side of the log: the new text of all its turns is appended by one script for each slot of 20 ms."""

import asyncio
import logging
import math
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

from chat.turns.leases import LEASE_MS, LeaseLost, lease_key, take_lease
from chat.turns.log import (
    APPEND,
    GROWING,
    KEPT_WHILE_OPEN_SECONDS,
    RENEWED,
    WAKE_UPS,
    Append,
    Entry,
    EntryKind,
    encode_appends,
    encode_entry,
    log_key,
)
from core.lua import Value
from core.threads import cancel_and_wait, in_thread
from core.unicode import mend
from history import progress
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
MAX_TURNS_PER_SCRIPT = 500
"""A longer script would keep Redis from serving others."""


class LiveText:
    """The text of one turn while this runner writes it: all of it, and how much of it the log has.

    `outcome_logged` and `lost` are done when the log has the outcome, and when another runner has the turn; `broken`
    has an exception when its text cannot be written.
    """

    __slots__ = (
        *("begun", "broken", "gen", "has_claimed_next", "is_dirty", "is_rewriting", "is_uncertain", "keys"),
        *(
            "log_length",
            "lost",
            "outcome",
            "outcome_logged",
            "renewed_at",
            "runner",
            "slot",
            "taking",
            "tick_waiter",
            "ticked_at",
            "turn",
        ),
        *("_has_sent_outcome", "_parts", "_pending_parts", "_sent_characters", "_sent_parts"),
    )

    def __init__(self, turn: Turn, runner: str) -> None:
        self.turn = turn
        self.runner = runner
        self.gen = turn.gen
        self.keys = (lease_key(turn.pk), log_key(turn.pk))
        self.log_length = 0  # how many entries the log has
        self.taking = asyncio.Lock()  # held while the turn is claimed again, or saved: either one changes `turn`
        self.renewed_at = monotonic()
        loop = asyncio.get_running_loop()
        self.outcome_logged: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.broken: asyncio.Future[None] = loop.create_future()
        self.begun = ""  # who answers, as encode_begun wrote it
        self.outcome = ""  # how it ended, as encode_outcome wrote it
        self.is_uncertain = False  # what the log holds is unknown, or gone
        self.is_rewriting = False  # it is being written anew
        self.has_claimed_next = False  # a generation whose lease is not taken yet
        self.is_dirty = False  # there is something the log does not have
        self.slot: int | None = None  # when it is due, if it is
        self.ticked_at = 0.0
        self.tick_waiter: asyncio.Future[None] | None = None  # done at the next tick
        self._has_sent_outcome = False
        self._parts: dict[int, list[str]] = {kind: [] for kind in GROWING}
        self._pending_parts = _none_of_each()  # how many parts the log will have with the entries on their way
        self._sent_parts = _none_of_each()  # how many parts the log has
        self._sent_characters = _none_of_each()  # the characters of those

    @property
    def holder(self) -> str:
        return f"{self.runner}:{self.gen}"

    @property
    def text(self) -> str:
        return mend("".join(self._parts[EntryKind.TEXT]))

    @property
    def reasoning(self) -> str:
        return mend("".join(self._parts[EntryKind.REASONING]))

    @property
    def tool_calls(self) -> str:
        return "".join(self._parts[EntryKind.TOOL_CALLS])

    @property
    def is_empty(self) -> bool:
        return not any(self._parts.values())

    @property
    def is_unsent(self) -> bool:
        """Whether the log has no text of it."""
        return not any(self._sent_parts.values())

    @property
    def is_lost(self) -> bool:
        return self.lost.done()

    def add(self, kind: EntryKind, text: str) -> None:
        self._parts[kind].append(text)

    def rewind(self, gen: int) -> None:
        """Begin again under another generation, that was claimed: the log will have nothing."""
        self.gen, self.has_claimed_next = gen, True
        self.log_length, self._sent_parts, self._sent_characters = 0, _none_of_each(), _none_of_each()
        self._has_sent_outcome = False

    def take_pending(self) -> list[Entry]:
        """Return what the log does not have, now on its way: who answers, then reasoning, text, tools that are called,
        and how it ended."""
        turn = self.turn.pk.bytes
        entries, pending_parts = [], {}
        if self.begun and self.is_unsent:
            entries.append(Entry(turn, EntryKind.BEGUN, self.gen, 0, self.begun))
        for kind, parts in self._parts.items():
            sent = self._sent_parts[kind]
            if len(parts) > sent:
                entries.append(Entry(turn, kind, self.gen, self._sent_characters[kind], "".join(parts[sent:])))
            pending_parts[kind] = len(parts)
        if self.outcome and not self._has_sent_outcome:
            entries.append(Entry(turn, EntryKind.OUTCOME, self.gen, 0, self.outcome))
        self._pending_parts = pending_parts
        return entries

    def mark_sent(self, entries: list[Entry]) -> None:
        """Note that the log has `entries`. Parts that came in while they were on their way stay pending."""
        self.log_length += len(entries)
        self._sent_parts = self._pending_parts.copy()
        for entry in entries:
            if entry.kind in GROWING:
                self._sent_characters[entry.kind] += len(entry.text)
            elif entry.kind == EntryKind.OUTCOME:
                self._has_sent_outcome = True
                if not self.outcome_logged.done():
                    self.outcome_logged.set_result(None)

    def put_back(self) -> None:
        """Note that what was taken last is not on its way."""
        self._pending_parts = self._sent_parts.copy()

    def break_off(self, error: Exception) -> None:
        """Drop what is not on its way into the log, as it cannot be written; the turn ends with `error`."""
        for kind, parts in self._parts.items():
            del parts[self._pending_parts[kind] :]
        if not self.broken.done():
            self.broken.set_exception(error)
            self.broken.exception()  # seen: whoever answers the turn may be gone

    def mark_lost(self) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


def _none_of_each() -> dict[int, int]:
    return dict.fromkeys(GROWING, 0)


class LogWriter:
    """Appends for every turn of this process, each at its own ticks."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._append = APPEND.bind(redis, lease_ms=LEASE_MS, log_seconds=KEPT_WHILE_OPEN_SECONDS, channel=WAKE_UPS)
        self._live: dict[UUID, LiveText] = {}
        self._slots: dict[int, list[LiveText]] = {}
        self._urgent: list[LiveText] = []
        self._wake = asyncio.Event()
        self._wakes_at = 0.0
        self._rewrites: set[asyncio.Task[None]] = set()

    def open(self, live: LiveText) -> None:
        self._live[live.turn.pk] = live

    def close(self, live: LiveText) -> None:
        if self._is_open(live):
            del self._live[live.turn.pk]
        live.is_dirty = False

    def schedule(self, live: LiveText, *, urgently: bool = False) -> None:
        """Append what `live` has new at its next tick; urgently, for a turn's first token and its end, at once."""
        live.is_dirty = True
        if urgently:
            self._urgent.append(live)
            self._wake.set()
        elif live.slot is None:
            self._choose_slot(live)

    async def next_tick(self, live: LiveText) -> None:
        """Return at the next tick of `live`, just before it is appended: the pace at which its provider is read."""
        waiter = live.tick_waiter = asyncio.get_running_loop().create_future()
        if live.slot is None:
            self._choose_slot(live)
        await waiter

    async def run(self) -> None:
        """Let each turn be read and appended once a tick, and renew leases, until cancelled."""
        try:
            await self._tick_for_ever()
        finally:
            await cancel_and_wait(tuple(self._rewrites))

    async def _tick_for_ever(self) -> None:
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
                await self._let_providers_be_read(due)
            urgent, self._urgent = self._urgent, []
            batch = {live: None for live in (*urgent, *due) if live.is_dirty}  # in order, each once
            if now >= next_renewal:
                batch |= dict.fromkeys(self._list_old_leases(now))
                next_renewal = now + RENEW_SECONDS / 5
            if batch:
                try:
                    await self._flush(batch, now)
                except Exception:  # the runner logs it and begins this again
                    self._mark_uncertain(batch)
                    raise

    def _choose_slot(self, live: LiveText) -> None:
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

    async def _let_providers_be_read(self, due: Iterable[LiveText]) -> None:
        """Wake those who wait for the tick, and let them read what has arrived meanwhile."""
        for live in due:
            if live.tick_waiter is not None and not live.tick_waiter.done():
                live.tick_waiter.set_result(None)
        for _ in range(3):  # they resume; the loop reads their sockets; they take what it read
            await asyncio.sleep(0)

    def _list_old_leases(self, now: float) -> list[LiveText]:
        """Return the turns whose lease is to be renewed even if they have nothing new."""
        return [live for live in self._live.values() if now - live.renewed_at > RENEW_SECONDS]

    async def _flush(self, batch: Iterable[LiveText], now: float) -> None:
        certain = [live for live in batch if not live.is_uncertain]
        uncertain = [live for live in batch if live.is_uncertain and not live.is_rewriting]
        for live in batch:
            live.is_dirty = False
        for first in range(0, len(certain), MAX_TURNS_PER_SCRIPT):
            await self._append_batch(certain[first : first + MAX_TURNS_PER_SCRIPT], now)
        if uncertain:
            self._start_rewrite(uncertain)

    async def _append_batch(self, batch: list[LiveText], now: float) -> None:
        pending: list[tuple[LiveText, list[Entry]]] = []
        encoded: list[Value] = []
        for live in batch:
            try:
                entries = live.take_pending()
                encoded += [encode_entry(entry) for entry in entries]
            except Exception as error:  # noqa: BLE001  whatever is wrong with one turn, the others are written
                live.put_back()
                live.break_off(error)
            else:
                pending.append((live, entries))
        if not pending:
            return
        appends = [
            Append(
                *live.keys,
                live.holder,
                live.is_unsent or now - live.renewed_at > RENEW_SECONDS,
                live.log_length,
                len(entries),
            )
            for live, entries in pending
        ]
        try:
            answers = await self._append([encode_appends(appends), *encoded])
        except (RedisError, OSError) as error:
            # Whether these entries arrived is unknown: appended again they could be there twice.
            logger.warning("Log unreachable", extra={"turns": len(batch), "error": type(error).__name__})
            self._mark_uncertain(live for live, entries in pending if entries)
            await asyncio.sleep(RETRY_SECONDS)
            return
        for (live, entries), answer in zip(pending, answers, strict=True):
            if answer > 0:
                live.mark_sent(entries)
                if answer == RENEWED:
                    live.renewed_at = now
            elif answer == 0:
                self._lose(live)
            else:
                self._mark_uncertain([live])

    def _mark_uncertain(self, lives: Iterable[LiveText]) -> None:
        for live in lives:
            if self._is_open(live):  # else it ended meanwhile, and its lease with it
                live.is_uncertain = True
                self.schedule(live)

    def _start_rewrite(self, uncertain: list[LiveText]) -> None:
        """Rewrite turns beside the others, which must not wait for their database."""
        for live in [live for live in uncertain if live.taking.locked()]:
            uncertain.remove(live)  # it is being saved
            self.schedule(live)
        for live in uncertain:
            live.is_rewriting = True
        task = asyncio.create_task(self._rewrite(uncertain))
        self._rewrites.add(task)
        task.add_done_callback(self._rewrites.discard)

    async def _rewrite(self, lives: list[LiveText]) -> None:
        """Write turns whole under their next generation: what their log holds is unknown, or gone."""
        try:
            await self._take_all_again(lives)
        finally:
            for live in lives:
                live.is_rewriting = False
                if live.is_uncertain and self._is_open(live):
                    self.schedule(live)

    async def _take_all_again(self, uncertain: list[LiveText]) -> None:
        uncertain = [live for live in uncertain if self._is_open(live)]
        results = await asyncio.gather(*map(self._take_again, uncertain), return_exceptions=True)
        failures = set()
        for live, result in zip(uncertain, results, strict=True):
            if isinstance(result, LeaseLost):
                self._lose(live)
            elif result is not None:  # Redis or the database is still away
                failures.add(type(result).__name__)
            elif self._is_open(live):  # else it was saved meanwhile, without Redis
                self.schedule(live)
        if failures:
            logger.warning("Logs not begun anew yet", extra={"turns": len(uncertain), "error": ",".join(failures)})
            await asyncio.sleep(RETRY_SECONDS)

    async def _take_again(self, live: LiveText) -> None:
        """Take the turn again under its next generation; raises LeaseLost if somebody else has it."""
        async with live.taking:
            if not self._is_open(live):
                return
            if not live.has_claimed_next:
                if not await in_thread(progress.claim, live.turn):
                    raise LeaseLost
                live.rewind(live.turn.gen)
            if not await take_lease(self._redis, live.turn.pk, live.holder, empties_log=True):
                raise LeaseLost
            live.renewed_at = monotonic()
            live.is_uncertain = live.has_claimed_next = False

    def _is_open(self, live: LiveText) -> bool:
        """Return whether it is written here: its turn may have ended, or have been taken again since."""
        return self._live.get(live.turn.pk) is live

    def _lose(self, live: LiveText) -> None:
        logger.warning("Turn lost to another runner", extra={"turn_id": live.turn.pk, "gen": live.gen})
        self.close(live)
        live.mark_lost()
