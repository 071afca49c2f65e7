"""Blocks of answers that are being written, as HTML: each is rendered once, for all sockets of this process.

Text goes to the pages as it comes. Where a block of it is over, its HTML follows, which is what the saved answer will
show: both are history/rendering.py's. Nothing waits for it, and a block that gets lost is in the saved answer.
"""

import asyncio
import logging
import re
from time import monotonic
from uuid import UUID
from weakref import WeakValueDictionary

import msgspec
from redis.exceptions import RedisError

from chat.shown.events import encode_json
from chat.turns.log import Entry, EntryKind, read_log
from core.loops import PerLoop
from core.redis_clients import async_redis
from core.threads import in_thread
from history.blocks import Splitter
from history.rendering import BlockRenderer, RenderedBlock

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.1  # between two renderings of one answer
REST = 4  # times as long as a rendering took nothing more of that answer is rendered


MAX_PLAIN_CHARACTERS = 500
"""A block of so many that has no code takes 0.1 ms, at the very worst 10, and is rendered where it is: going to a
thread takes as long."""
LONGER = re.compile(r"```|~~~|\]:")  # code, and what may change other blocks


class LiveAnswer:
    """The blocks of one answer, as far as it is written. Whoever reads its text brings it here."""

    def __init__(self, turn_id: UUID) -> None:
        self.turn_id = turn_id
        self._task: asyncio.Task[None] | None = None
        self._begin(0)

    def _begin(self, gen: int) -> None:
        self.gen = gen
        self.frames: list[tuple[int, str]] = []  # where a block ends, and its event
        self._length = 0
        self._splitter = Splitter()
        self._renderer = BlockRenderer(str(self.turn_id))
        self._sources: list[str] = []
        self._is_lost = False  # a part of the text is nowhere to be had
        self._came_after_gap: list[Entry] = []

    def receive(self, entry: Entry) -> None:
        """Take a part of the text, which another reader may have brought."""
        if entry.gen > self.gen:
            self._begin(entry.gen)
        if entry.gen < self.gen or self._is_lost or entry.at + len(entry.text) <= self._length:
            return
        if entry.at > self._length:
            self._came_after_gap.append(entry)
        else:
            fresh = entry.text[self._length - entry.at :]
            self._length += len(fresh)
            self._sources += self._splitter.add(fresh)
        if (self._sources or self._came_after_gap) and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._sources or self._came_after_gap:
                if self._came_after_gap:
                    await self._read_log()
                begun = monotonic()
                await self._render()
                await asyncio.sleep(max(PAUSE_SECONDS, REST * (monotonic() - begun)))
        except Exception:  # the text is shown all the same, and the saved answer will be whole
            self._is_lost = True
            logger.exception("Blocks lost", extra={"turn_id": self.turn_id})

    async def _render(self) -> None:
        sources, self._sources = self._sources, []
        frames, gen = self.frames, self.gen
        if sum(map(len, sources)) > MAX_PLAIN_CHARACTERS or any(map(LONGER.search, sources)):
            blocks = await in_thread(self._renderer.render, sources)
        else:
            blocks = self._renderer.render(sources)
        for block in blocks:
            frames.append((block.end, _block_frame(self.turn_id, gen, block)))

    async def _read_log(self) -> None:
        """Get what no reader of this process has brought: they all came later."""
        gen = self.gen
        try:
            entries = await read_log(async_redis(), self.turn_id)
        except (RedisError, OSError):
            entries = []
        if gen != self.gen:
            return
        came, self._came_after_gap = self._came_after_gap, []
        for entry in (*entries, *came):
            if entry.kind == EntryKind.TEXT and entry.gen == gen:
                self.receive(entry)
        if self._came_after_gap:
            self._is_lost, self._came_after_gap = True, []


class BlockReader:
    """What one page gets of a live answer's blocks: each after its text."""

    def __init__(self, turn_id: UUID) -> None:
        self._answer = _answer_of(turn_id)
        self._frames = self._answer.frames
        self._sent = 0
        self._gen = self._end = 0

    def receive(self, entry: Entry) -> None:
        """Note that the page has this part of the text."""
        self._answer.receive(entry)
        self._gen, self._end = entry.gen, entry.at + len(entry.text)

    def take(self) -> list[str]:
        """Return the events the page lacks, of blocks whose text it has."""
        answer = self._answer
        if self._frames is not answer.frames:
            self._frames, self._sent = answer.frames, 0
        if self._gen != answer.gen:
            return []
        taken = []
        while self._sent < len(self._frames) and self._frames[self._sent][0] <= self._end:
            taken.append(self._frames[self._sent][1])
            self._sent += 1
        return taken


_answers: PerLoop["WeakValueDictionary[UUID, LiveAnswer]"] = PerLoop(WeakValueDictionary)


def _answer_of(turn_id: UUID) -> LiveAnswer:
    answers = _answers.get()
    answer = answers.get(turn_id)
    if answer is None:
        answer = answers[turn_id] = LiveAnswer(turn_id)
    return answer


def _block_frame(turn_id: UUID, gen: int, block: RenderedBlock) -> str:
    event = {"type": "turn.block", "turn_id": turn_id, "gen": gen, **msgspec.structs.asdict(block)}
    return encode_json(event).decode()
