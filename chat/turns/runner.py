"""`manage.py run_turns`: takes turns from the queue and runs each as one task. Any number of runners share the work.

A turn is this runner's while it holds the lease (leases.py); its queue entry stays pending until the turn is closed, so
that another runner finds it if this one dies.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import DatabaseError
from django.utils.translation import gettext_noop
from redis.exceptions import RedisError, ResponseError
from structlog.contextvars import bind_contextvars

from chat.llm.breaker import breakers, close_breakers
from chat.llm.providers import sdk
from chat.llm.providers.http import close_session
from chat.turns import leases, presence
from chat.turns.answer_cache import decode_answer
from chat.turns.answering import answer_turn
from chat.turns.claiming import ClaimedTurn, claim_turn, find_and_claim
from chat.turns.ending import announce_end, end_log
from chat.turns.leases import (
    STOP_REQUESTS,
    Taken,
    drop_lease,
    find_holders,
    stop_key,
    take_lease,
    take_lease_and_read_cache,
)
from chat.turns.log import KEPT_WHILE_OPEN_SECONDS, log_key, replay_log
from chat.turns.metrics import RUNNING
from chat.turns.needs import knows_needs_of
from chat.turns.queue import GROUP, QUEUE, request_of, turn_of
from chat.turns.rescue import MAX_DEATHS, close_without_runner, give_up, outcome_from_log, read_remains
from chat.turns.sent_requests import SentRequests
from chat.turns.titler import Titler
from chat.turns.writer import LiveText, LogWriter
from core.alerts import alert
from core.metrics import watch_loop
from core.redis_clients import async_redis, close_async_redis
from core.threads import cancel_and_wait, in_thread
from history.models import Turn

logger = logging.getLogger(__name__)

BLOCK_MS = 2_000
MAX_ENTRIES_READ = 64
RECLAIM_SECONDS = 5.0
PRESENCE_SECONDS = 5.0
RETRY_SECONDS = 0.5
RETRY_PAUSES_SECONDS = (0.5, 2, 5)
"""When a turn is tried again after a store was away; after that it is found among those without a lease."""
DEAD_CONSUMER_MS = 3_600_000
SUSPECT_SECONDS = 0.2
"""How often a turn that a runner died with looks whether it may begin, and renews its lease."""
MAX_SUSPECT_SECONDS = 10
"""How long it waits for another one that stays silent. What would kill its runner later than that is beside others."""


class Runner:
    """One process that answers turns: `name` says which in leases and among the queue's consumers."""

    def __init__(self) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._redis = async_redis()
        self._writer = LogWriter(self._redis)
        self._titler = Titler(self._redis)
        self._claimed: dict[UUID, ClaimedTurn] = {}
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._suspects: dict[UUID, float] = {}  # turns that another runner died with, on board since when
        self._blocked_until = 0.0  # when this loop last went on after it had stood still for long
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._stopping = asyncio.Event()
        RUNNING.set_function(lambda: len(self._tasks))

    async def run(self, stopping: asyncio.Event) -> None:
        """Run turns until `stopping`; then finish what runs for DRAIN_SECONDS, and close the rest as interrupted."""
        self._stopping = stopping
        async with asyncio.TaskGroup() as group:
            writer = group.create_task(self._repeat(self._writer.run))
            loops = [
                group.create_task(self._repeat(loop))
                for loop in (
                    self._read_queue,
                    self._reclaim,
                    self._receive_stop_requests,
                    self._announce_presence,
                    self._notice_blocks,
                    watch_loop,
                )
            ]
            logger.info("Runner ready", extra={"runner": self.name})
            await stopping.wait()
            await cancel_and_wait(loops[:2])
            await self._take_last()
            await self._drain()
            await cancel_and_wait((*loops, writer))
        await self._close_connections()

    async def _repeat(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Begin a loop again when Redis or a database was away, and whatever else ended it: the others go on."""
        while True:
            try:
                await loop()
            except (RedisError, DatabaseError, OSError) as error:
                fields = {"loop": loop.__name__, "error": type(error).__name__}
                logger.warning("Store unreachable", extra=fields)
            except Exception:
                logger.exception("Loop broke", extra={"loop": loop.__name__})
            await asyncio.sleep(RETRY_SECONDS)

    # --- Taking turns ------------------------------------------------------------------------------------------------

    async def _read_queue(self) -> None:
        await self._make_group()
        while True:
            await self._has_room.wait()
            try:
                found: Any = await self._redis.xreadgroup(
                    GROUP, self.name, {QUEUE: ">"}, count=self._room, block=BLOCK_MS
                )
            except ResponseError as error:
                await self._make_group_if_lost(error)
                continue
            for _stream, entries in found or ():
                for turn_id, entry, request_id in await self._readable(entries):
                    await self._start(turn_id, entry, request_id)

    @property
    def _room(self) -> int:
        """How many entries to ask for; at least one, as Redis refuses to return none."""
        room: int = settings.RUNNER_CAPACITY - len(self._tasks)
        return max(1, min(MAX_ENTRIES_READ, room))

    async def _make_group(self) -> None:
        try:
            await self._redis.xgroup_create(QUEUE, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):  # it exists
                raise

    async def _make_group_if_lost(self, error: ResponseError) -> None:
        """Make the group again where Redis was emptied; raises any other error, as of a Redis that takes no writes."""
        if not str(error).startswith("NOGROUP"):
            raise error
        await self._make_group()

    async def _reclaim(self) -> None:
        """Look at entries that were claimed long ago: most are running, with a lease; the others lost their runner."""
        cursor: bytes | str = "0-0"
        while True:
            await self._has_room.wait()
            try:
                cursor, entries, _deleted = await self._redis.xautoclaim(
                    QUEUE, GROUP, self.name, leases.LEASE_MS, start_id=cursor, count=self._room
                )
            except ResponseError as error:
                await self._make_group_if_lost(error)
                entries, cursor = [], b"0-0"
            for turn_id, entry, request_id in await self._list_without_runner(entries):
                await self._start(turn_id, entry, request_id)
            if cursor == b"0-0":
                await asyncio.sleep(RECLAIM_SECONDS)

    async def _take_last(self) -> None:
        """Begin what Redis gave to this runner while it stopped reading. Nobody would look at it for 15 s."""
        with suppress(RedisError, OSError):
            found: Any = await self._redis.xreadgroup(GROUP, self.name, {QUEUE: "0"})
            for _stream, entries in found or ():
                for turn_id, entry, request_id in await self._list_without_runner(entries):
                    if self._has_room.is_set():
                        await self._start(turn_id, entry, request_id)
                    elif turn_id not in self._tasks:
                        await self._give_back(entry)

    async def _list_without_runner(self, entries: Iterable[Any]) -> list[tuple[UUID, bytes, str]]:
        """Return turns, entries and requests of those that no other runner has."""
        found = await self._readable(entry for entry in entries if entry[1])  # a dropped one is there without its turn
        holders = await find_holders(self._redis, [turn_id for turn_id, *_entry in found])
        return [one for one in found if not self._is_elsewhere(holders.get(one[0]))]

    def _is_elsewhere(self, holder: str | None) -> bool:
        """Return whether the lease is another's; what this runner has no task for, it does not write."""
        return holder is not None and not holder.startswith(f"{self.name}:")

    async def _readable(self, entries: Iterable[tuple[bytes, dict[bytes, bytes]]]) -> list[tuple[UUID, bytes, str]]:
        """Return turns, entries and the ids of their requests, without entries that nobody of ours has written: those
        are dropped."""
        found = []
        for entry, fields in entries:
            if (turn_id := turn_of(fields)) is not None:
                found.append((turn_id, entry, request_of(fields)))
                continue
            _alert_of_malformed("queue")
            await self._redis.xack(QUEUE, GROUP, entry)
            await self._redis.xdel(QUEUE, entry)
        return found

    async def _start(self, turn_id: UUID, entry: bytes, request_id: str) -> None:
        """Handle an entry as soon as there is room for it."""
        while turn_id not in self._tasks and not self._has_room.is_set():
            await self._has_room.wait()
        if turn_id in self._tasks:  # maybe only now: another loop has waited for room, too
            return
        task = asyncio.create_task(self._handle(turn_id, entry, request_id))
        self._tasks[turn_id] = task
        task.add_done_callback(lambda _done: self._release(turn_id))
        if len(self._tasks) >= settings.RUNNER_CAPACITY:
            self._has_room.clear()

    def _release(self, turn_id: UUID) -> None:
        del self._tasks[turn_id]
        self._has_room.set()

    # --- One turn ----------------------------------------------------------------------------------------------------

    async def _handle(self, turn_id: UUID, entry: bytes, request_id: str) -> None:
        """Do what the turn of a queue entry needs. Whatever goes wrong, the entry stays for another try.

        A store that is away is tried again soon. Each try sees what the row, the lease and the log say by then.
        """
        bind_contextvars(turn_id=turn_id, **({"request_id": request_id} if request_id else {}))
        for pause_seconds in (0, *RETRY_PAUSES_SECONDS):
            if pause_seconds and await self._is_stopped_within(pause_seconds):
                return
            if not await self._try(turn_id, entry):
                return

    async def _try(self, turn_id: UUID, entry: bytes) -> bool:
        """Do what the turn needs; return whether a store was away, so that another try may help."""
        is_store_away = False
        try:
            if await self._take_on_board(turn_id, entry):
                return False
        except (RedisError, DatabaseError, OSError) as error:
            logger.warning("Turn left for later", extra={"turn_id": turn_id, "error": type(error).__name__})
            is_store_away = True
            await self._keep_log(turn_id)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException:  # a library's exit, too, which would end the process and every other turn
            logger.exception("Turn left for later", extra={"turn_id": turn_id})
            await self._keep_log(turn_id)
        await self._leave((turn_id,))
        return is_store_away

    async def _keep_log(self, turn_id: UUID) -> None:
        """Keep what may be the only copy of an answer, however long it takes until it can be saved."""
        with suppress(RedisError, OSError):
            await self._redis.expire(log_key(turn_id), KEPT_WHILE_OPEN_SECONDS)

    async def _leave(self, turn_ids: Sequence[UUID]) -> None:
        with suppress(RedisError, OSError):
            await presence.leave_turns(self._redis, turn_ids, self.name)

    async def _give_back(self, entry: bytes) -> None:
        """Let the next runner that looks for turns without a runner have this one, and not only after 15 s."""
        await self._redis.xclaim(QUEUE, GROUP, self.name, 0, [entry], idle=leases.LEASE_MS, justid=True)

    async def _is_stopped_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return self._stopping.is_set()

    async def _take_on_board(self, turn_id: UUID, entry: bytes) -> bool:
        """Do what the turn needs, unless runners died of it; return whether it is over.

        A turn that a runner died with may be what it died of. What it has shown is closed; else it runs again, alone.
        """
        deaths = await presence.board_turn(self._redis, turn_id, self.name)
        if 0 < deaths < MAX_DEATHS and not (await replay_log(self._redis, turn_id)).must_be_kept:
            return await self._take_on_board_alone(turn_id, entry)
        return await self._run_or_end(turn_id, entry, may_run=deaths < MAX_DEATHS)

    async def _take_on_board_alone(self, turn_id: UUID, entry: bytes) -> bool:
        """Do that once none of the turns that are like it is silent any more: the next death counts for one of them.

        It waits with a lease, so that nobody else takes or ends it, until somebody wants it to be stopped.
        """
        await self._leave((turn_id,))
        holder = f"{self.name}:0"  # before any generation: its own will replace it
        while any(map(self._is_silent, self._suspects)):
            taken = await take_lease(self._redis, turn_id, holder)
            if not taken:
                return False
            if taken == Taken.STOP:
                break
            if await self._is_stopped_within(SUSPECT_SECONDS):
                await drop_lease(self._redis, turn_id, holder)
                await self._give_back(entry)
                return False
        self._suspects[turn_id] = monotonic()
        try:
            deaths = await presence.board_turn(self._redis, turn_id, self.name)
            return await self._run_or_end(turn_id, entry, may_run=deaths < MAX_DEATHS)
        finally:
            del self._suspects[turn_id]

    def _is_silent(self, turn_id: UUID) -> bool:
        """Return whether a suspect has shown nothing, and not had its time for it."""
        if monotonic() - self._suspects[turn_id] > MAX_SUSPECT_SECONDS:
            return False
        claimed = self._claimed.get(turn_id)
        return claimed is None or claimed.turn.first_token_at is None

    async def _run_or_end(self, turn_id: UUID, entry: bytes, *, may_run: bool) -> bool:
        """Run the turn, or end it if it is over or may not be run; return whether it is over."""
        turn, claimed = await in_thread(find_and_claim, turn_id, may_run=may_run)
        if claimed is not None:
            return await self._run(claimed, entry)
        if turn is not None and not turn.is_open:
            await announce_end(self._redis, turn, queue_entry=entry)
            return True
        if turn is not None and not knows_needs_of(turn):
            await self._give_back(entry)
            return False
        if self._is_elsewhere((await find_holders(self._redis, [turn_id])).get(turn_id)):
            return False  # also if it was erased: its runner settles what the provider takes
        if turn is None:
            await end_log(self._redis, turn_id, gen=0, queue_entry=entry)
            return True
        if turn.gen > 0 or not may_run:
            return await self._rescue(turn, entry, may_run=may_run)
        return False

    async def _rescue(self, turn: Turn, entry: bytes, *, may_run: bool) -> bool:
        """Take over a turn whose runner is gone: close it if it showed something or may not be run, else run it again.

        Return whether it is over.
        """
        logger.warning("Turn without a runner found", extra={"turn_id": turn.pk, "gen": turn.gen})
        remains = await read_remains(self._redis, turn.pk)
        outcome = await in_thread(outcome_from_log, turn, remains)
        if outcome is None and not may_run:
            outcome = give_up(turn, remains)
        if outcome is not None:
            return await close_without_runner(self._redis, turn, outcome, closer=self.name, queue_entry=entry)
        if claimed := await in_thread(claim_turn, turn, remains.sent):
            return await self._run(claimed, entry)
        if turn.is_open:
            return False
        await announce_end(self._redis, turn, queue_entry=entry)
        return True

    async def _run(self, claimed: ClaimedTurn, entry: bytes) -> bool:
        """Answer the turn; return whether it is over: it may be another runner's, or be left for one."""
        turn = claimed.turn
        live = LiveText(turn, self.name)
        sent = SentRequests(self._redis, turn, self.name, claimed.sent_before)
        self._claimed[turn.pk] = claimed  # first: a stop that comes before the lease's answer must find it
        breakers().start_refresh()
        try:
            taken = await self._take_lease(claimed, live.holder)
            if not taken:
                return False  # a slow runner still has it; its appends are refused once its lease runs out
            if taken == Taken.STOP:
                claimed.stop("request")
            self._writer.open(live)
            if not await answer_turn(claimed, live, self._writer, sent):
                if live.is_lost and live.renewed_at < self._blocked_until:
                    await presence.note_lost(self._redis, turn.pk, live.holder)
                elif not live.is_lost and claimed.stop_reason == "drain":
                    await drop_lease(self._redis, turn.pk, live.holder)
                    await self._give_back(entry)
                return False
        finally:
            self._writer.close(live)
            del self._claimed[turn.pk]
        slot = claimed.cache_slot if claimed.is_by_first_candidate else None
        cache_write = slot.write_after(turn) if slot else None
        await announce_end(self._redis, turn, holder=live.holder, queue_entry=entry, cache_write=cache_write)
        if claimed.is_first_answer and not claimed.is_recorded:  # it asks no model, and its question is its title
            self._titler.start(turn, end_user=claimed.request.end_user)
        return True

    async def _take_lease(self, claimed: ClaimedTurn, holder: str) -> Taken:
        """Take the turn's lease, and with it the answer that the cache has, if it has one."""
        turn, slot = claimed.turn, claimed.cache_slot
        if slot is None:
            return await take_lease(self._redis, turn.pk, holder, empties_log=True)
        taken, slot.version_read, value = await take_lease_and_read_cache(self._redis, turn.pk, holder, slot.read)
        if cached := decode_answer(value):
            saved = {"input_tokens": cached.input_tokens, "output_tokens": cached.output_tokens}
            logger.info("Answered from the cache", extra={"turn_id": turn.pk, "model": cached.model, **saved})
        claimed.cached = cached
        return taken

    # --- Around them -------------------------------------------------------------------------------------------------

    async def _receive_stop_requests(self) -> None:
        """Stop turns on request. Requests that came while this connection was down are found by their keys."""
        async with self._redis.pubsub() as subscription:
            await subscription.subscribe(STOP_REQUESTS)
            await self._stop_requested()
            while True:
                message = await subscription.get_message(ignore_subscribe_messages=True, timeout=4)
                if message is not None:
                    self._receive_stop_request(message["data"])

    def _receive_stop_request(self, data: bytes) -> None:
        try:
            self._stop(UUID(bytes=data))
        except ValueError:
            _alert_of_malformed("stop")

    async def _stop_requested(self) -> None:
        turn_ids = list(self._claimed)
        if turn_ids:
            flags = await self._redis.mget(map(stop_key, turn_ids))
            for turn_id, flag in zip(turn_ids, flags, strict=True):
                if flag is not None:
                    self._stop(turn_id)

    def _stop(self, turn_id: UUID) -> None:
        if claimed := self._claimed.get(turn_id):
            claimed.stop("request")

    async def _announce_presence(self) -> None:
        await self._forget_dead_consumers()
        while True:
            await presence.announce_runner(self._redis, self.name)
            await asyncio.sleep(PRESENCE_SECONDS)

    async def _notice_blocks(self) -> None:
        """Note when this loop stood still for so long that leases may have run out: one of its turns may do that."""
        while True:
            since = monotonic()
            await asyncio.sleep(leases.LEASE_MS / 15_000)
            if (now := monotonic()) - since > leases.LEASE_MS / 2_000:
                self._blocked_until = now
                logger.warning("Runner stood still", extra={"seconds": round(now - since, 1)})

    async def _forget_dead_consumers(self) -> None:
        """Remove runners from the group that are long gone and have no entries left."""
        await self._make_group()
        for consumer in await self._redis.xinfo_consumers(QUEUE, GROUP):
            if consumer["pending"] == 0 and consumer["idle"] > DEAD_CONSUMER_MS:
                await self._redis.xgroup_delconsumer(QUEUE, GROUP, consumer["name"])

    async def _drain(self) -> None:
        """Let turns finish for DRAIN_SECONDS, then stop those that are left. Whatever ends this process now, it is not
        what its turns did."""
        await self._leave(list(self._tasks))
        deadline = monotonic() + settings.DRAIN_SECONDS
        while self._tasks and (left := deadline - monotonic()) > 0:
            await asyncio.wait(self._tasks.values(), timeout=left)
        for claimed in list(self._claimed.values()):
            claimed.stop("drain")
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=10)

    async def _close_connections(self) -> None:
        await self._titler.stop()
        with suppress(RedisError, OSError):
            await presence.remove_runner(self._redis, self.name)
        await close_session()
        await sdk.close_clients()
        await close_breakers()
        await close_async_redis()


def _alert_of_malformed(place: str) -> None:
    sentence = gettext_noop("Something in Redis could not be read, and was dropped. Does anything else write there?")
    alert(f"redis:{place}", sentence, place=place)
