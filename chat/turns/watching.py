"""A reader's side of the log: follow a turn's live text from any point, exactly, in any web process.

One subscription a process receives what runners append; each watcher keeps its own place. Where it sees a gap it reads
the log, which is the truth; when the log is silent for long it looks at the saved turn, so that no lost message and no
lost Redis leaves it waiting.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from time import monotonic
from uuid import UUID

import msgspec
from redis.exceptions import RedisError

from chat.turns import queue as waiting_line
from chat.turns.log import WAKE_UPS, Entry, EntryKind, decode_entries, read_log
from core.loops import PerLoop
from core.redis_clients import async_redis
from core.threads import in_thread
from history import access
from history.models import Turn

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 5.0
LOOK_SECONDS = 1.0  # how often silent ones are looked for
RETRY_SECONDS = 0.5
MAX_BACKLOG_CHARACTERS = 16_384
"""Characters kept for a reader that does not keep up. What is beyond is read from the log when it does."""


class Place(msgspec.Struct):
    """How far a reader is: the generation, and the characters of text and of reasoning it has."""

    gen: int = 0
    text: int = 0
    reasoning: int = 0


class Watcher:
    """One reader of one turn. `take` keeps what comes next after `place` and drops what it has already."""

    __slots__ = (
        *("_backlog", "_meanwhile", "_size", "_told_place", "_waiter", "_was_deaf"),
        *("has_gap", "heard_at", "is_ended", "is_silent", "place", "turn_id"),
    )

    def __init__(self, turn_id: UUID, place: Place) -> None:
        self.turn_id = turn_id
        self.place = place
        self.is_ended = False
        self.has_gap = True  # nothing was read yet
        self.heard_at = monotonic()
        self.is_silent = False  # nothing came for SILENCE_SECONDS
        self._told_place = 0
        self._backlog: list[Entry] = []
        self._size = 0
        self._meanwhile: list[Entry] | None = None  # what comes in while the log is being read
        self._was_deaf = False  # something may have been missed while the log was being read
        self._waiter: asyncio.Future[None] | None = None

    def take(self, entry: Entry) -> None:
        """Keep the entry if it continues what the reader has; note a gap if it does not."""
        if self.is_ended:
            return
        if self.has_gap:
            if self._meanwhile is not None:
                self._meanwhile.append(entry)
        elif entry.kind == EntryKind.END:
            self._take_end(entry)
        elif entry.kind in (EntryKind.TEXT, EntryKind.REASONING):
            self._take_text(entry)

    def begin_to_read(self) -> None:
        """Keep what is passed on from now on: the log, when it arrives, may not have it yet."""
        self._meanwhile = []
        self._was_deaf = False

    def read(self, entries: list[Entry]) -> None:
        """Take a whole log, and what came in while it was read: whatever gap there was is closed."""
        meanwhile, self._meanwhile = self._meanwhile or [], None
        was_deaf, self._was_deaf = self._was_deaf, False
        self.has_gap = False
        last_gen = max((entry.gen for entry in entries if entry.kind != EntryKind.END), default=0)
        for entry in (*entries, *meanwhile):
            if entry.gen >= last_gen or entry.kind == EntryKind.END:
                self.take(entry)
        if was_deaf and not self.is_ended:
            self.find_gap()

    def take_saved(self, turn: Turn) -> None:
        """Take what is missing from the saved turn, and its end."""
        self.has_gap = False
        gen = max(turn.gen, self.place.gen)
        if self.place.gen != turn.gen:
            self.place = Place(gen)
        for kind, text, at in (
            (EntryKind.REASONING, turn.reasoning, self.place.reasoning),
            (EntryKind.TEXT, turn.answer, self.place.text),
        ):
            if len(text) > at:
                self._keep(Entry(turn.pk.bytes, kind, gen, at, text[at:]))
        self._keep(Entry(turn.pk.bytes, EntryKind.END, gen))
        self.is_ended = True

    async def wait(self) -> None:
        """Return when there is something to deliver, a gap to close, or silence to look into."""
        if not (self._backlog or self.has_gap or self.is_silent):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def deliver(self) -> list[Entry]:
        """Return what came since the last time."""
        backlog, self._backlog, self._size = self._backlog, [], 0
        return backlog

    def find_gap(self) -> None:
        self.has_gap = True
        self._was_deaf = self._meanwhile is not None
        self._wake()

    def fall_silent(self) -> None:
        self.is_silent = True
        self._wake()

    def take_place(self, place: int) -> None:
        """Tell the reader its place in the line, and once, with 0, that it is no longer in it."""
        if place != self._told_place:
            self._told_place = place
            self._keep(Entry(self.turn_id.bytes, EntryKind.WAITING, 0, place))

    @property
    def is_waiting(self) -> bool:
        """Whether no runner has said anything of the turn, as far as this reader knows."""
        return self.place.gen == 0 and not self.is_ended and not self.has_gap

    def hear(self) -> None:
        """Note that the turn is known to be alive."""
        self.is_silent, self.heard_at = False, monotonic()

    @property
    def is_over(self) -> bool:
        """Whether all is delivered that will ever come."""
        return self.is_ended and not self._backlog

    @property
    def is_full(self) -> bool:
        return self._size > MAX_BACKLOG_CHARACTERS

    def _take_end(self, entry: Entry) -> None:
        if entry.at and (entry.gen > self.place.gen or self.place.text < entry.at):  # the end of the text is missing
            self.find_gap()
            return
        self._keep(entry)
        self.is_ended = True

    def _take_text(self, entry: Entry) -> None:
        place = self.place
        if entry.gen < place.gen:
            return
        if entry.gen > place.gen:
            place = self.place = Place(entry.gen)
        field = "text" if entry.kind == EntryKind.TEXT else "reasoning"
        have = getattr(place, field)
        if entry.at > have or self.is_full:
            self.find_gap()
            return
        if new := entry.text[have - entry.at :]:
            self._keep(entry if have == entry.at else msgspec.structs.replace(entry, at=have, text=new))
            setattr(place, field, have + len(new))

    def _keep(self, entry: Entry) -> None:
        self._backlog.append(entry)
        self._size += len(entry.text)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


Listener = Callable[[Entry], None]


class Hub:
    """The one subscription of this process's loop, and everybody who watches through it."""

    def __init__(self) -> None:
        self._watchers: dict[bytes, set[Watcher]] = {}
        self._listeners: dict[int, set[Listener]] = {}
        self._task: asyncio.Task[None] | None = None
        self._is_listening = asyncio.Event()
        self._looked_at = 0.0
        self._telling: asyncio.Task[None] | None = None

    async def add(self, watcher: Watcher) -> None:
        """Begin to pass entries on; returns when the subscription is up, or is known to be down."""
        self._watchers.setdefault(watcher.turn_id.bytes, set()).add(watcher)
        if not self._is_listening.is_set():
            await self._begin_to_listen()

    async def add_new(self, turn_id: UUID) -> Watcher:
        """Return a watcher of a turn that is about to be opened: as nothing can be missed, there is nothing to read."""
        watcher = Watcher(turn_id, Place())
        await self.add(watcher)
        watcher.has_gap = not self._is_listening.is_set()
        return watcher

    async def listen(self, owner_id: int, listener: Listener) -> None:
        """Tell `listener` from now on of every turn of this person that is opened or ends. What is told while the
        subscription is down is lost."""
        self._listeners.setdefault(owner_id, set()).add(listener)
        if not self._is_listening.is_set():
            await self._begin_to_listen()

    def unlisten(self, owner_id: int, listener: Listener) -> None:
        listeners = self._listeners.get(owner_id, set())
        listeners.discard(listener)
        if not listeners:
            self._listeners.pop(owner_id, None)

    async def _begin_to_listen(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._listen())
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY_SECONDS):
                await self._is_listening.wait()

    def remove(self, watcher: Watcher) -> None:
        watchers = self._watchers.get(watcher.turn_id.bytes, set())
        watchers.discard(watcher)
        if not watchers:
            self._watchers.pop(watcher.turn_id.bytes, None)

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except (RedisError, OSError) as error:
                logger.warning("Live text unreachable", extra={"error": type(error).__name__})
            except Exception:  # a message nobody understands must not leave every reader deaf
                logger.exception("Live text broke")
            self._is_listening.clear()
            self._find_silent()
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen_once(self) -> None:
        async with async_redis().pubsub() as subscription:
            await subscription.subscribe(WAKE_UPS)
            while True:
                message = await subscription.get_message(timeout=LOOK_SECONDS)
                self._find_silent()
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self._is_listening.set()
                    for watchers in self._watchers.values():
                        for watcher in watchers:
                            watcher.find_gap()  # what was published meanwhile was missed
                elif message["type"] == "message":
                    self._pass_on(decode_entries(message["data"]))

    def _pass_on(self, entries: list[Entry]) -> None:
        now = monotonic()
        for entry in entries:
            for watcher in self._watchers.get(entry.turn, ()):
                watcher.heard_at = now
                watcher.take(entry)
            if entry.kind in (EntryKind.OPENED, EntryKind.END) and entry.text:
                for listener in tuple(self._listeners.get(int(entry.text), ())):
                    listener(entry)

    def _find_silent(self) -> None:
        """Have those look at the saved turn who have heard nothing for long."""
        now = monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        watching = [watcher for watchers in self._watchers.values() for watcher in watchers]
        for watcher in watching:
            if now - watcher.heard_at > SILENCE_SECONDS:
                watcher.fall_silent()
        waiting = [watcher for watcher in watching if watcher.is_waiting and now - watcher.heard_at > LOOK_SECONDS]
        if waiting and (self._telling is None or self._telling.done()):
            self._telling = asyncio.create_task(self._tell_places(waiting))

    async def _tell_places(self, waiting: list[Watcher]) -> None:
        try:
            places = await waiting_line.places(async_redis())
        except (RedisError, OSError):
            return
        for watcher in waiting:
            if watcher.is_waiting:
                watcher.take_place(places.get(watcher.turn_id, 0))


_hubs = PerLoop(Hub)


def hub() -> Hub:
    """Return the running loop's hub."""
    return _hubs.get()


async def watch(
    turn: Turn, place: Place | None = None, *, watcher: Watcher | None = None
) -> AsyncGenerator[list[Entry]]:
    """Yield what comes after `place`, as lists of TEXT, REASONING and at last one END entry; then stop. Before the
    first of them WAITING entries may come, while the turn stands in the line.

    An empty list says that nothing came for SILENCE_SECONDS. A new generation begins at offset 0: a reader drops what
    it had. `turn` is the row as the caller knows it; `watcher`, one that the hub has already.
    """
    if watcher is None:
        watcher = Watcher(turn.pk, msgspec.structs.replace(place) if place else Place())
    try:
        await hub().add(watcher)  # a reader may be gone before it is through
        is_saved = not turn.is_open
        while not watcher.is_over:
            if watcher.has_gap:
                await _catch_up(watcher, turn, is_saved=is_saved)
                if entries := watcher.deliver():
                    yield entries
                continue
            await watcher.wait()
            if watcher.is_silent:
                watcher.hear()
                if found := await _find_saved(turn.pk):
                    watcher.take_saved(found)
                yield watcher.deliver()
            elif entries := watcher.deliver():
                yield entries
    finally:
        hub().remove(watcher)


async def _catch_up(watcher: Watcher, turn: Turn, *, is_saved: bool) -> None:
    """Read the log from the start; where it, or its end, is gone, the saved turn."""
    watcher.begin_to_read()
    try:
        entries = await read_log(async_redis(), watcher.turn_id)
    except (RedisError, OSError):
        await asyncio.sleep(RETRY_SECONDS)
        entries, is_saved = [], True
    watcher.read(entries)
    is_over = any(entry.kind == EntryKind.END for entry in entries) or (is_saved and not entries)
    if is_over and not watcher.is_ended and not watcher.is_full and (found := await _find_saved(turn.pk)):
        watcher.take_saved(found)


async def _find_saved(turn_id: UUID) -> Turn | None:
    """Return the turn if it is finished."""
    turn = await in_thread(access.find_turn, turn_id)
    return turn if turn is not None and not turn.is_open else None
