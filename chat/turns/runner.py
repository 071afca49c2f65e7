"""`manage.py run_turns`: takes turns from the queue and runs each as one task. Any number of runners share the work.

A turn is this runner's while it holds the lease (chat/turns/log.py); its queue entry stays pending until the turn is
closed, so that another runner finds it if this one dies.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import DatabaseError
from redis.exceptions import RedisError, ResponseError

from chat.llm.breaker import breakers, close_breakers
from chat.llm.providers import sdk
from chat.llm.providers.http import close_session
from chat.turns import log, presence
from chat.turns.answer_cache import unpack
from chat.turns.answering import Job, prepare_job, run_turn, take_job
from chat.turns.log import CONTROL, GROUP, QUEUE, Taken, replay_log
from chat.turns.rescue import announce_end, close_with, has_lease, last_words
from chat.turns.titler import Titler
from chat.turns.writer import LiveText, LogWriter
from core.redis_clients import async_redis, close_async_redis
from core.threads import cancel_and_wait, in_thread
from history import progress
from history.models import Turn

logger = logging.getLogger(__name__)

BLOCK_MS = 2_000
BATCH = 64
RECLAIM_SECONDS = 5.0
PRESENCE_SECONDS = 5.0
RETRY_SECONDS = 0.5
FORGOTTEN_MS = 3_600_000


class Runner:
    def __init__(self) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._redis = async_redis()
        self._writer = LogWriter(self._redis, advance)
        self._titler = Titler(self._redis)
        self._jobs: dict[UUID, Job] = {}
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Run turns until `stopping`; then finish what runs for DRAIN_SECONDS, and close the rest as interrupted."""
        async with asyncio.TaskGroup() as group:
            writer = group.create_task(self._writer.run())
            loops = [
                group.create_task(self._forever(loop))
                for loop in (self._take_from_queue, self._reclaim, self._follow_control, self._give_signs_of_life)
            ]
            logger.info("Runner ready", extra={"runner": self.name})
            await stopping.wait()
            await cancel_and_wait(loops[:2])
            await self._drain()
            await cancel_and_wait((*loops, writer))
        await self._leave()

    async def _forever(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Keep a loop going while Redis or a database is away."""
        while True:
            try:
                await loop()
            except (RedisError, DatabaseError, OSError) as error:
                fields = {"loop": loop.__name__, "error": type(error).__name__}
                logger.warning("Store unreachable", extra=fields)
                await asyncio.sleep(RETRY_SECONDS)

    # --- Taking turns ------------------------------------------------------------------------------------------------

    async def _take_from_queue(self) -> None:
        await self._make_group()
        while True:
            await self._has_room.wait()
            room = min(BATCH, settings.RUNNER_CAPACITY - len(self._tasks))
            try:
                found: Any = await self._redis.xreadgroup(GROUP, self.name, {QUEUE: ">"}, count=room, block=BLOCK_MS)
            except ResponseError:  # NOGROUP: Redis was emptied
                await self._make_group()
                continue
            for _stream, entries in found or ():
                for entry, fields in entries:
                    self._take(entry, fields)

    async def _make_group(self) -> None:
        try:
            await self._redis.xgroup_create(QUEUE, GROUP, id="0", mkstream=True)
        except ResponseError:  # it exists
            pass

    async def _reclaim(self) -> None:
        """Look at entries that were claimed long ago: most are running, with a lease; the others lost their runner."""
        cursor: bytes | str = "0-0"
        while True:
            try:
                cursor, entries, _deleted = await self._redis.xautoclaim(
                    QUEUE, GROUP, self.name, log.LEASE_MS, start_id=cursor, count=BATCH
                )
            except ResponseError:
                await self._make_group()
                entries, cursor = [], b"0-0"
            for entry, fields in entries:
                if fields:
                    self._take(entry, fields)
            if cursor == b"0-0":
                await asyncio.sleep(RECLAIM_SECONDS)

    def _take(self, entry: bytes, fields: dict[bytes, bytes]) -> None:
        turn_id = UUID(bytes=fields[b"turn"])
        if turn_id in self._tasks:
            return
        task = asyncio.create_task(self._own(turn_id, entry))
        self._tasks[turn_id] = task
        task.add_done_callback(lambda _done: self._release(turn_id))
        if len(self._tasks) >= settings.RUNNER_CAPACITY:
            self._has_room.clear()

    def _release(self, turn_id: UUID) -> None:
        del self._tasks[turn_id]
        self._has_room.set()

    # --- One turn ----------------------------------------------------------------------------------------------------

    async def _own(self, turn_id: UUID, entry: bytes) -> None:
        """Do with a queue entry what its turn needs. Whatever goes wrong, the entry stays for another try."""
        try:
            await self._own_turn(turn_id, entry)
        except (RedisError, DatabaseError, OSError) as error:
            logger.warning("Turn left for later", extra={"turn_id": turn_id, "error": type(error).__name__})
        except Exception:
            logger.exception("Turn left for later", extra={"turn_id": turn_id})

    async def _own_turn(self, turn_id: UUID, entry: bytes) -> None:
        turn, job = await in_thread(take_job, turn_id)
        if turn is None:  # erased meanwhile
            await log.end_log(self._redis, turn_id, gen=0, queue_entry=entry)
        elif job is not None:
            await self._run(job, entry)
        elif not turn.is_open:
            await announce_end(self._redis, turn, queue_entry=entry)
        elif turn.gen > 0 and not await has_lease(self._redis, turn_id):
            await self._rescue(turn, entry)

    async def _rescue(self, turn: Turn, entry: bytes) -> None:
        """Take over a turn whose runner is gone: close it if it showed something, else run it again."""
        logger.warning("Turn without a runner found", extra={"turn_id": turn.pk, "gen": turn.gen})
        words = await in_thread(last_words, turn, await replay_log(self._redis, turn.pk))
        if words is not None:
            await close_with(self._redis, turn, words, closer=self.name, queue_entry=entry)
        elif job := await in_thread(prepare_job, turn):
            await self._run(job, entry)
        elif not turn.is_open:
            await announce_end(self._redis, turn, queue_entry=entry)

    async def _run(self, job: Job, entry: bytes) -> None:
        turn = job.turn
        live = LiveText(turn, self.name)
        self._jobs[turn.pk] = job  # first: a stop that comes before the lease's answer must find it
        breakers().start_refresh()
        try:
            taken = await self._begin(job, live.holder)
            if not taken:
                return  # a slow runner still has it; its appends are refused once its lease runs out
            if taken == Taken.STOP:
                job.cut_short("stop")
            self._writer.open(live)
            if not await run_turn(job, live, self._writer):
                return
        finally:
            self._writer.close(live)
            del self._jobs[turn.pk]
        keep = job.recall.keep(turn) if job.recall and job.is_by_first else None
        await announce_end(self._redis, turn, holder=live.holder, queue_entry=entry, keep=keep)
        if job.is_first_answered:
            self._titler.begin(turn, end_user=job.prompt.end_user)

    async def _begin(self, job: Job, holder: str) -> log.Taken:
        """Take the turn's lease, and with it an answer that was given before, if there is one."""
        if job.recall is None:
            return await log.take_lease(self._redis, job.turn.pk, holder, empties_log=True)
        taken, job.recall.version, value = await log.take_lease_and_look_up(
            self._redis, job.turn.pk, holder, job.recall.look_up
        )
        job.kept = unpack(value)
        if job.kept is not None:
            saved = {"input_tokens": job.kept.input_tokens, "output_tokens": job.kept.output_tokens}
            logger.info("Answered from the cache", extra={"turn_id": job.turn.pk, "model": job.kept.model, **saved})
        return taken

    # --- Around them -------------------------------------------------------------------------------------------------

    async def _follow_control(self) -> None:
        """Stop turns on request. What was asked while this connection was down is found by its key."""
        async with self._redis.pubsub() as control:
            await control.subscribe(CONTROL)
            await self._stop_requested()
            while True:
                message = await control.get_message(ignore_subscribe_messages=True, timeout=4)
                if message is not None:
                    self._stop(UUID(bytes=message["data"]))

    async def _stop_requested(self) -> None:
        turn_ids = list(self._jobs)
        if turn_ids:
            flags = await self._redis.mget(map(log.stop_key, turn_ids))
            for turn_id, flag in zip(turn_ids, flags, strict=True):
                if flag:
                    self._stop(turn_id)

    def _stop(self, turn_id: UUID) -> None:
        if job := self._jobs.get(turn_id):
            job.cut_short("stop")

    async def _give_signs_of_life(self) -> None:
        await self._forget_dead_consumers()
        while True:
            await presence.announce(self._redis, self.name)
            await asyncio.sleep(PRESENCE_SECONDS)

    async def _forget_dead_consumers(self) -> None:
        """Remove runners from the group that are long gone and left nothing."""
        await self._make_group()
        for consumer in await self._redis.xinfo_consumers(QUEUE, GROUP):
            if consumer["pending"] == 0 and consumer["idle"] > FORGOTTEN_MS:
                await self._redis.xgroup_delconsumer(QUEUE, GROUP, consumer["name"])

    async def _drain(self) -> None:
        deadline = monotonic() + settings.DRAIN_SECONDS
        while self._tasks and (left := deadline - monotonic()) > 0:
            await asyncio.wait(self._tasks.values(), timeout=left)
        for job in list(self._jobs.values()):
            job.cut_short("drain")
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=10)

    async def _leave(self) -> None:
        await self._titler.stop()
        try:
            await presence.leave(self._redis, self.name)
        except (RedisError, OSError):
            pass
        await close_session()
        await sdk.close_clients()
        await close_breakers()
        await close_async_redis()


async def advance(turn: Turn) -> bool:
    """Give the turn its next generation in the database; return whether it was still this runner's."""
    return await in_thread(progress.claim, turn)
