"""The two sides of a turn's log: a runner that writes, and a reader that is strict about what it gets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from redis.asyncio import Redis

from billing import metering
from chat.turns import ending, leases, log
from chat.turns.closing import close_turn
from chat.turns.log import Entry, EntryKind
from chat.turns.watching import Place, watch
from chat.turns.writer import LiveText, LogWriter
from core.threads import cancel_and_wait, in_thread
from history.models import Turn
from history.progress import Outcome, claim


class Writing:
    """One turn while it is written, without a provider."""

    def __init__(self, redis: Redis, writer: LogWriter, live: LiveText) -> None:
        self.redis = redis
        self.writer = writer
        self.live = live
        self.turn = live.turn

    def say(self, *texts: str, kind: EntryKind = EntryKind.TEXT) -> None:
        for text in texts:
            self.live.add(kind, text)
            self.writer.schedule(self.live, urgently=True)

    async def say_and_wait(self, text: str, *, kind: EntryKind = EntryKind.TEXT) -> None:
        """Say it, and wait until the log has it."""
        self.say(text, kind=kind)
        async with asyncio.timeout(20):
            while not await self.has_arrived():
                await asyncio.sleep(0.005)

    async def has_arrived(self) -> bool:
        found = log.replay(await log.read_log(self.redis, self.turn.pk))
        return (found.text, found.reasoning) == (self.live.text, self.live.reasoning)

    async def save(self) -> None:
        """Close the turn in the database; the log does not learn of it."""
        outcome = Outcome("completed", answer=self.live.text, reasoning=self.live.reasoning)
        await in_thread(close_turn, self.turn, outcome)

    async def finish(self) -> None:
        """Close the turn as its runner does."""
        await self.save()
        self.writer.close(self.live)
        await ending.end_log(
            self.redis,
            self.turn.pk,
            gen=self.live.gen,
            characters=len(self.live.text),
            holder=self.live.holder,
        )


@asynccontextmanager
async def writing(redis: Redis, turn: Turn, *, runner: str = "runner-a") -> AsyncIterator[Writing]:
    """Claim the turn, take its lease, and write what the test says."""
    await in_thread(claim, turn)
    live = LiveText(turn, runner)
    assert await leases.take_lease(redis, turn.pk, live.holder, empties_log=True)
    writer = LogWriter(redis)
    writer.open(live)
    task = asyncio.create_task(writer.run())
    try:
        yield Writing(redis, writer, live)
    finally:
        await cancel_and_wait((task,))  # one cancellation may be lost before Python 3.12, and the writer would go on
        if not task.cancelled():
            task.result()
        await in_thread(metering.release, turn.pk)


class Reading:
    """What a reader has: it accepts each character once, in order, and a new generation only from its beginning."""

    def __init__(self, *, gen: int = 0, text: str = "", reasoning: str = "") -> None:
        self.gen, self.text, self.reasoning = gen, text, reasoning
        self.generations: list[int] = []
        self.batches: list[list[Entry]] = []
        self.is_over = False

    @property
    def place(self) -> Place:
        return Place(self.gen, len(self.text), len(self.reasoning))

    def take(self, entries: list[Entry]) -> None:
        self.batches.append(entries)
        for entry in entries:
            assert not self.is_over, "Something came after the end."
            if entry.kind == EntryKind.END:
                self.is_over = True
                continue
            if entry.gen != self.gen:
                assert entry.gen > self.gen, "An older generation came back."
                self.gen, self.text, self.reasoning = entry.gen, "", ""
                self.generations.append(entry.gen)
            field = "text" if entry.kind == EntryKind.TEXT else "reasoning"
            have = getattr(self, field)
            assert entry.at == len(have), "Something is missing, or came twice."
            assert entry.text, "An entry without text."
            setattr(self, field, have + entry.text)


async def follow(turn: Turn, reading: Reading | None = None, *, seconds: float = 30) -> Reading:
    """Read a turn to its end."""
    reading = reading or Reading()
    async with asyncio.timeout(seconds), aclosing(watch(turn, reading.place)) as batches:
        async for entries in batches:
            reading.take(entries)
    assert reading.is_over
    return reading
