"""What the connections of a fake provider share: running answers, the clock that paces them, and counters."""

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from time import monotonic_ns
from typing import Any, Protocol

from testbed.http1 import chunk
from testbed.openai_format import OpenAIAnswer
from testbed.script import Script

MAX_REQUESTS = 50
# Tokens that are due within this time are sent at once.
TOLERANCE_NS = 400_000
# A stream that is so far behind (the machine slept) goes on from now instead of catching up in a burst.
MAX_BEHIND_NS = 5_000_000_000


class Connection(Protocol):
    """The connection that an answer is written to."""

    def write(self, frames: list[bytes]) -> None: ...

    def finish_stream(self, running: "RunningAnswer", frames: list[bytes]) -> None: ...

    def finish_whole(self, running: "RunningAnswer") -> None: ...

    def drop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Counters:
    started: int  # answers, streamed or not, without refusals
    finished: int
    aborted: int  # the client closed while an answer ran
    active: int
    refused: int  # requests answered with an error status
    tokens: int  # visible and reasoning
    last_abort_ns: int  # CLOCK_MONOTONIC when the last abort was noticed, 0 for none
    requests: list[dict[str, Any]]  # the last bodies, oldest first


@dataclass(slots=True)
class _Counters:
    started: int = 0
    finished: int = 0
    aborted: int = 0
    refused: int = 0
    tokens: int = 0
    last_abort_ns: int = 0


class ProviderState:
    """The state of one provider."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.clock = Clock(loop)
        self.connections: set[Connection] = set()
        self.running: set[RunningAnswer] = set()
        self.requests: deque[dict[str, Any]] = deque(maxlen=MAX_REQUESTS)
        self.counters = _Counters()
        self._calls: Counter[str] = Counter()

    def snapshot(self) -> Counters:
        counters = asdict(self.counters)
        counters["tokens"] += sum(running.answer.sent for running in self.running)
        return Counters(active=len(self.running), requests=list(self.requests), **counters)

    def reset(self) -> None:
        """Set the counters back, and drop running answers, so that they do not count for the next test."""
        dropped, self.running = self.running, set()
        for running in dropped:
            running.connection.drop()
        self.requests.clear()
        self.counters = _Counters()
        self._calls.clear()

    def is_flaky_now(self, model: str, script: Script) -> bool:
        if script.flaky:
            self._calls[model] += 1
        return 0 < self._calls[model] <= script.flaky

    def add_running(self, running: "RunningAnswer") -> None:
        self.counters.started += 1
        self.running.add(running)

    def remove_running(self, running: "RunningAnswer", *, by_client: bool) -> None:
        if running not in self.running:
            return
        self.running.remove(running)
        self.counters.tokens += running.answer.sent
        if by_client:
            self.counters.aborted += 1
            self.counters.last_abort_ns = monotonic_ns()
        else:
            self.counters.finished += 1


class Clock:
    """Wakes answers when their next token is due. One heap and one timer for all: a timer of the event loop costs more
    than a token."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[int, int, RunningAnswer]] = []
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_ns = 0

    def add(self, running: "RunningAnswer") -> None:
        self._push(running)
        self._arm()

    def _push(self, running: "RunningAnswer") -> None:
        self._number += 1  # so that two answers due in the same nanosecond are not compared
        heapq.heappush(self._heap, (running.due_ns, self._number, running))

    def _arm(self) -> None:
        if not self._heap:
            return
        due_ns = self._heap[0][0]
        if self._timer is not None:
            if self._timer_due_ns <= due_ns:
                return
            self._timer.cancel()
        self._timer_due_ns = due_ns
        self._timer = self._loop.call_later(max(0.0, (due_ns - monotonic_ns()) / 1e9), self._wake)

    def _wake(self) -> None:
        self._timer = None
        heap = self._heap
        now = monotonic_ns()
        while heap and heap[0][0] <= now + TOLERANCE_NS:
            running = heapq.heappop(heap)[2]
            if running.step(now):
                self._push(running)
        self._arm()


@dataclass(slots=True, eq=False)
class RunningAnswer:
    """An answer that is being sent."""

    connection: Connection
    answer: OpenAIAnswer
    due_ns: int
    events: Iterator[tuple[bytes, int]] | None  # None where the answer is not streamed
    is_over: bool = False

    def step(self, now: int) -> bool:
        """Send what is due; return whether more will be."""
        if self.is_over:
            return False
        if self.events is None:
            self.connection.finish_whole(self)
            return False
        frames: list[bytes] = []
        for event, pause_ns in self.events:
            frames.append(chunk(event))
            if pause_ns:
                self.connection.write(frames)
                self.due_ns += pause_ns
                if self.due_ns < now - MAX_BEHIND_NS:
                    self.due_ns = now
                return True
        self.connection.finish_stream(self, frames)
        return False
