"""A reader's side of the log: follow a turn's live text from any point, exactly, in any web process.

One subscription a process receives what runners append; each watcher keeps its reader's place. Where it sees a gap it
reads the log, which is the truth, from its end back to what the reader has; when nothing comes for long it looks at the
saved turn, so that neither a lost notification nor a lost Redis leaves a reader waiting. A gap that is in the log, too,
is waited at: for another generation, or the end.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from contextvars import Context
from time import monotonic
from uuid import UUID

import msgspec
from redis.exceptions import RedisError

from chat.errors import AccessEnded
from chat.turns.dialogues import written_answer
from chat.turns.log import GROWING, WAKE_UPS, Entry, EntryKind, decode_entries, read_log, read_log_tail
from chat.turns.queue import queue_positions
from core.errors import STORES_AWAY, NotFound
from core.loops import PerLoop
from core.redis_clients import async_redis
from core.threads import in_thread
from history import access
from history.models import Turn

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 5.0
CHECK_SECONDS = 1.0  # how often silent watchers are looked for
RETRY_SECONDS = 0.5
SPREAD_SECONDS = 1.0
SPREAD_SECONDS_EACH = 0.002
"""After a new subscription every watcher reads its log: within 2 ms for each of them, and a second for all."""
MAX_BACKLOG_CHARACTERS = 16_384
"""Kept for a reader that does not keep up. What comes after that is read from the log when it does."""


class Place(msgspec.Struct):
    """How far a reader is: the generation, and the characters of text, of reasoning and of calls of tools it has."""

    gen: int = 0
    text: int = 0
    reasoning: int = 0
    tool_calls: int = 0


class Watcher:
    """One reader of one turn. `receive` keeps what comes next after `place`, and drops what the reader has already."""

    __slots__ = (
        *("_backlog", "_backlog_characters", "_came_while_reading", "_may_have_missed", "_pause_seconds"),
        *("_place_before_reading", "_queue_position", "_reads_at", "_waiter"),
        *(
            "begun",
            "has_gap",
            "is_ended",
            "is_silent",
            "is_shut_out",
            "last_heard_at",
            "place",
            "reads_whole_log",
            "turn_id",
        ),
    )

    def __init__(self, turn_id: UUID, place: Place) -> None:
        self.turn_id = turn_id
        self.place = place
        self.begun = ""  # who answers, as encode_begun wrote it, where the log was read from its start
        self.is_ended = False
        self.has_gap = True  # nothing was read yet
        self.reads_whole_log = True  # the place came from a client: of what is before it, anything may be missing
        self.last_heard_at = monotonic()
        self.is_silent = False  # nothing came for SILENCE_SECONDS
        self.is_shut_out = False  # whether its reader may not be here any more
        self._queue_position = 0
        self._backlog: list[Entry] = []
        self._backlog_characters = 0
        self._came_while_reading: list[Entry] | None = None  # None while the log is not being read
        self._may_have_missed = False  # something, while the log was being read
        self._place_before_reading = place
        self._reads_at = 0.0  # not before
        self._pause_seconds = 0.0  # between readings that find the same gap; 0 while none did
        self._waiter: asyncio.Future[None] | None = None

    def receive(self, entry: Entry) -> None:
        """Keep the entry if it continues what the reader has; note a gap if it does not."""
        if self.is_ended:
            return
        if self.has_gap:
            if self._came_while_reading is not None:
                self._came_while_reading.append(entry)
            elif self._pause_seconds and (entry.gen > self.place.gen or entry.kind == EntryKind.END):
                self._reads_at = 0.0  # this may close it
                self._wake()
        elif entry.kind == EntryKind.END:
            self._receive_end(entry)
        elif entry.kind in GROWING:
            self._receive_text(entry)
        elif entry.kind == EntryKind.BEGUN:
            self.begun = entry.text

    def start_reading_log(self) -> None:
        """Keep what is received from now on: the log, when it has been read, may not have it."""
        self._came_while_reading = []
        self._may_have_missed = False
        self._place_before_reading = msgspec.structs.replace(self.place)

    def receive_log(self, entries: list[Entry]) -> None:
        """Receive a log, then what came while it was being read: this closes any gap that is not in the log, too.

        The log may begin with an entry the reader has, unless `reads_whole_log`.
        """
        came, self._came_while_reading = self._came_while_reading or [], None
        may_have_missed, self._may_have_missed = self._may_have_missed, False
        self.has_gap = False
        last_gen = max((entry.gen for entry in entries if entry.kind != EntryKind.END), default=0)
        for entry in (*entries, *came):
            if entry.gen >= last_gen or entry.kind == EntryKind.END:
                self.receive(entry)
        if may_have_missed and not self.is_ended:
            self.mark_gap()
        else:
            self._plan_next_reading()

    def receive_no_log(self) -> None:
        """Go on without the log, which cannot be read. The next subscription will be a gap."""
        reads_whole_log = self.reads_whole_log
        self.receive_log([])
        self.reads_whole_log = reads_whole_log

    def has(self, entry: Entry) -> bool:
        """Whether the reader has this part of the present generation to its end."""
        place = self.place
        field = GROWING.get(entry.kind)
        if entry.gen != place.gen or field is None:
            return False
        has: int = getattr(place, field)
        return entry.at + len(entry.text) <= has

    def receive_saved(self, turn: Turn) -> None:
        """Receive what is missing from the saved turn, and its end; nothing if that came while it was being read."""
        if self.is_ended:
            return
        self.has_gap = False
        gen = max(turn.gen, self.place.gen)
        if self.place.gen != turn.gen:
            self.place = Place(gen)
        for kind, text, at in (
            (EntryKind.REASONING, turn.reasoning, self.place.reasoning),
            (EntryKind.TEXT, written_answer(turn), self.place.text),
            (EntryKind.TOOL_CALLS, turn.tool_calls or "", self.place.tool_calls),
        ):
            if len(text) > at:
                self._keep(Entry(turn.pk.bytes, kind, gen, at, text[at:]))
        self._keep(Entry(turn.pk.bytes, EntryKind.END, gen))
        self.is_ended = True

    async def wait(self) -> None:
        """Return when there is something to deliver, a gap to close, or silence to look into; or earlier."""
        if self._backlog or self.is_silent or self.is_shut_out:
            return
        if not self.has_gap:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        elif (pause := self._reads_at - monotonic()) > 0:
            self._waiter = asyncio.get_running_loop().create_future()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):  # `wait_for` loses cancellations before Python 3.12
                    await self._waiter

    def deliver(self) -> list[Entry]:
        """Return what came since the last time."""
        backlog, self._backlog, self._backlog_characters = self._backlog, [], 0
        return backlog

    def mark_gap(self, *, within_seconds: float = 0.0) -> None:
        """Note that something may have been missed: the log must be read, at a random moment within that time."""
        self.has_gap = True
        self._may_have_missed = self._came_while_reading is not None
        self._reads_at = monotonic() + random.uniform(0, within_seconds)  # noqa: S311  jitter
        self._wake()

    def mark_unread(self) -> None:
        """Note that the log has more than what was received: it must be read from its start."""
        self.reads_whole_log = True
        self.mark_gap()

    def mark_silent(self) -> None:
        """Note that nothing came for SILENCE_SECONDS."""
        self.is_silent = True
        self._wake()

    def mark_heard(self) -> None:
        """Wait for another SILENCE_SECONDS before the turn counts as silent."""
        self.is_silent, self.last_heard_at = False, monotonic()

    def receive_queue_position(self, position: int) -> None:
        """Tell the reader its turn's position in the queue, and once, with 0, that it is no longer in it."""
        if position != self._queue_position:
            self._queue_position = position
            self._keep(Entry(self.turn_id.bytes, EntryKind.WAITING, 0, position))

    def shut_out(self) -> None:
        """Let its reader get nothing more: `watch` raises AccessEnded."""
        self.is_shut_out = True
        self._wake()

    @property
    def is_queued(self) -> bool:
        """Whether no runner has begun the turn, as far as this watcher knows."""
        return self.place.gen == 0 and not self.is_ended and not self.has_gap

    @property
    def is_over(self) -> bool:
        """Whether everything is delivered, the end too."""
        return self.is_ended and not self._backlog

    @property
    def must_read(self) -> bool:
        """Whether the log is to be read now: there is room for what it has, and the time has come."""
        return self.has_gap and not self._backlog and monotonic() >= self._reads_at

    @property
    def is_full(self) -> bool:
        return self._backlog_characters > MAX_BACKLOG_CHARACTERS

    def _plan_next_reading(self) -> None:
        """If there still is a gap: read on where that led further, then from the start, then after a pause."""
        if not self.has_gap:
            self.reads_whole_log, self._pause_seconds = False, 0.0
        elif self.place != self._place_before_reading:
            self._pause_seconds = 0.0
        elif not self.reads_whole_log:
            self.reads_whole_log = True
        else:
            self._pause_seconds = min(SILENCE_SECONDS, max(RETRY_SECONDS, 2 * self._pause_seconds))
            self._reads_at = monotonic() + self._pause_seconds * random.uniform(0.5, 1)  # noqa: S311  jitter

    def _receive_end(self, entry: Entry) -> None:
        place = self.place
        if entry.at and (entry.gen > place.gen or place.text + place.tool_calls < entry.at):
            self.mark_gap()  # the end of the text is missing
            return
        self._keep(entry)
        self.is_ended = True

    def _receive_text(self, entry: Entry) -> None:
        place = self.place
        if entry.gen < place.gen:
            return
        if entry.gen > place.gen:
            place = self.place = Place(entry.gen)
        field = GROWING[entry.kind]
        have = getattr(place, field)
        if entry.at > have or self.is_full:
            self.mark_gap()
            return
        if new := entry.text[have - entry.at :]:
            self._keep(entry if have == entry.at else msgspec.structs.replace(entry, at=have, text=new))
            setattr(place, field, have + len(new))

    def _keep(self, entry: Entry) -> None:
        self._backlog.append(entry)
        self._backlog_characters += len(entry.text)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


Listener = Callable[[Entry], None]
NEWS = frozenset((EntryKind.OPENED, EntryKind.END, EntryKind.REVOKED))
"""What listeners are called for, beside notices."""


class Hub:
    """The one subscription of this process's loop, and everybody who watches through it."""

    def __init__(self) -> None:
        self._watchers: dict[bytes, set[Watcher]] = {}
        self._listeners: dict[int, set[Listener]] = {}
        self._task: asyncio.Task[None] | None = None
        self._is_subscribed = asyncio.Event()
        self._checked_at = 0.0
        self._positions_task: asyncio.Task[None] | None = None

    async def add(self, watcher: Watcher) -> None:
        """Deliver entries to `watcher` from now on; returns when the subscription is up, or is known to be down."""
        self._watchers.setdefault(watcher.turn_id.bytes, set()).add(watcher)
        if not self._is_subscribed.is_set():
            await self._ensure_subscription()

    async def add_new(self, turn_id: UUID) -> Watcher:
        """Return a watcher of a turn that is about to be opened: as nothing can be missed, there is nothing to read."""
        watcher = Watcher(turn_id, Place())
        await self.add(watcher)
        watcher.has_gap = watcher.reads_whole_log = not self._is_subscribed.is_set()
        return watcher

    async def listen(self, owner_id: int, listener: Listener) -> None:
        """Call `listener` from now on for every turn of this person that is opened or ends, for conversations of theirs
        that change, and when something that let them in is over.

        It is not called for what happens while the subscription is down.
        """
        self._listeners.setdefault(owner_id, set()).add(listener)
        if not self._is_subscribed.is_set():
            await self._ensure_subscription()

    def unlisten(self, owner_id: int, listener: Listener) -> None:
        listeners = self._listeners.get(owner_id, set())
        listeners.discard(listener)
        if not listeners:
            self._listeners.pop(owner_id, None)

    def tell(self, entry: Entry) -> None:
        """Call the listeners of the person the entry is about."""
        for listener in tuple(self._listeners.get(int(entry.text), ())):
            listener(entry)

    async def _ensure_subscription(self) -> None:
        if self._task is None or self._task.done():
            # Without the ids of the request that came first: it is everybody's.
            self._task = asyncio.create_task(self._keep_subscribed(), context=Context())
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY_SECONDS):
                await self._is_subscribed.wait()

    def remove(self, watcher: Watcher) -> None:
        watchers = self._watchers.get(watcher.turn_id.bytes, set())
        watchers.discard(watcher)
        if not watchers:
            self._watchers.pop(watcher.turn_id.bytes, None)

    async def _keep_subscribed(self) -> None:
        while True:
            try:
                await self._receive()
            except (RedisError, OSError) as error:
                logger.warning("Live text unreachable", extra={"error": type(error).__name__})
            except Exception:  # one message that cannot be read must not end the subscription of all
                logger.exception("Live text broke")
            self._is_subscribed.clear()
            self._check_silence()
            await asyncio.sleep(RETRY_SECONDS)

    async def _receive(self) -> None:
        async with async_redis().pubsub() as subscription:
            await subscription.subscribe(WAKE_UPS)
            while True:
                message = await subscription.get_message(timeout=CHECK_SECONDS)
                self._check_silence()
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self._is_subscribed.set()
                    self._mark_gaps()
                elif message["type"] == "message":
                    self._deliver(decode_entries(message["data"]))

    def _mark_gaps(self) -> None:
        """What was published before the subscription was missed. Not all watchers read their logs at once."""
        watching = self._all_watchers()
        within_seconds = min(SPREAD_SECONDS, SPREAD_SECONDS_EACH * (len(watching) - 1))
        for watcher in watching:
            watcher.mark_gap(within_seconds=within_seconds)

    def _all_watchers(self) -> list[Watcher]:
        return [watcher for watchers in self._watchers.values() for watcher in watchers]

    def _deliver(self, entries: list[Entry]) -> None:
        now = monotonic()
        for entry in entries:
            try:
                for watcher in self._watchers.get(entry.turn, ()):
                    if not watcher.has_gap:  # else it gets nothing: it has to look at the saved turn at times
                        watcher.last_heard_at = now
                    watcher.receive(entry)
                if entry.kind in NEWS and entry.text:
                    self.tell(entry)
            except Exception:  # of one turn: the readers of the others get theirs
                logger.exception("Entry not delivered")

    def _check_silence(self) -> None:
        """Mark watchers that have heard nothing for long, and tell those whose turn is queued their position."""
        now = monotonic()
        if now - self._checked_at < CHECK_SECONDS:
            return
        self._checked_at = now
        watching = self._all_watchers()
        for watcher in watching:
            if now - watcher.last_heard_at > SILENCE_SECONDS:
                watcher.mark_silent()
        queued = [one for one in watching if one.is_queued and now - one.last_heard_at > CHECK_SECONDS]
        if queued and (self._positions_task is None or self._positions_task.done()):
            self._positions_task = asyncio.create_task(self._tell_positions(queued))

    async def _tell_positions(self, queued: list[Watcher]) -> None:
        try:
            positions = await queue_positions(async_redis())
        except (RedisError, OSError):
            return
        for watcher in queued:
            if watcher.is_queued:
                watcher.receive_queue_position(positions.get(watcher.turn_id, 0))


_hubs = PerLoop(Hub)


def hub() -> Hub:
    """Return the running loop's hub."""
    return _hubs.get()


async def watch(
    turn: Turn, place: Place | None = None, *, watcher: Watcher | None = None
) -> AsyncGenerator[list[Entry]]:
    """Yield what comes after `place`, as lists of TEXT, REASONING, TOOL_CALLS and at last one END entry; then stop.

    WAITING entries may come before the first of them, while the turn is queued. An empty list says that nothing came
    for SILENCE_SECONDS. A new generation begins at offset 0: a reader drops what it had. `turn` is the row as the
    caller knows it; `watcher`, one that was made already. Raises AccessEnded when the watcher is shut out.
    """
    if watcher is None:
        watcher = Watcher(turn.pk, msgspec.structs.replace(place) if place else Place())
    try:
        await hub().add(watcher)  # inside: a reader may go away while it waits for this
        is_saved = not turn.is_open
        while not watcher.is_over:
            await watcher.wait()
            if watcher.is_shut_out:
                raise AccessEnded
            if watcher.must_read:
                await _catch_up(watcher, turn, is_saved=is_saved)
            elif watcher.is_silent:
                watcher.mark_heard()
                if found := await _find_saved(turn.pk):
                    watcher.receive_saved(found)
                yield watcher.deliver()
                continue
            if entries := watcher.deliver():
                yield entries
    finally:
        hub().remove(watcher)


async def _catch_up(watcher: Watcher, turn: Turn, *, is_saved: bool) -> None:
    """Read what the reader misses of the log; the saved turn where the log or its end is gone."""
    watcher.start_reading_log()
    entries: list[Entry] = []
    try:
        if watcher.reads_whole_log:
            entries = await read_log(async_redis(), watcher.turn_id)
        else:
            entries = await read_log_tail(async_redis(), watcher.turn_id, watcher.has)
    except (RedisError, OSError):
        await asyncio.sleep(RETRY_SECONDS)
        watcher.receive_no_log()
        is_saved = True
    else:
        watcher.receive_log(entries)
    _check_cancelled()
    is_over = any(entry.kind == EntryKind.END for entry in entries) or (is_saved and not entries)
    if is_over and not watcher.is_ended and not watcher.is_full and (found := await _find_saved(turn.pk)):
        watcher.receive_saved(found)


def _check_cancelled() -> None:
    """Raise CancelledError if the task was cancelled: before Python 3.12 redis-py, in `wait_for`, may lose that."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _find_saved(turn_id: UUID) -> Turn | None:
    """Return the turn if it is finished, as far as the database says; raises NotFound if it was deleted."""
    try:
        turn = await in_thread(access.find_turn, turn_id)
    except STORES_AWAY as error:  # it is away, and the live text may not be: the reader reads on
        logger.warning("Saved turn unreachable", extra={"turn_id": turn_id, "error": type(error).__name__})
        return None
    if turn is None:
        raise NotFound
    return None if turn.is_open else turn
