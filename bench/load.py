"""Loads a provider or a site with many token streams at once, and measures the delays and costs it adds.

    python -m bench.load --target provider --url http://127.0.0.1:9100/v1 --model fake-200t-20ms-ns --streams 200
    python -m bench.load --target socket --url http://127.0.0.1:8000 --tokens FILE --pid web=123 --pid runner=124 …
    python -m bench.load --target events …

The model must be a timed script of `testbed.script`. Prints one line of JSON, see `Report`; the exit code is 1 if a
turn failed. The provider, the site and this client run on one machine: tokens are timed by the clock they share.
"""

import argparse
import asyncio
import json
import sys
import time
from array import array
from collections import defaultdict
from collections.abc import Coroutine, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from bench import processes
from bench.clients import (
    Client,
    CompletionClient,
    EventStreamClient,
    ProviderClient,
    SlowSocketClient,
    SocketClient,
    Target,
)
from bench.connections import Address, ConnectionFailedError
from bench.measurement import Totals, TurnMeasurement
from testbed.many_connections import allow_many_sockets, new_fast_loop
from testbed.script import Script

# How many clients get their tickets and conversations at a time.
MAX_OPENING_AT_ONCE = 16
# Reading /proc takes milliseconds, in which no token is read.
MEMORY_PROBE_SECONDS = 1.0
# After its last message a turn is settled and written: that belongs to its cost.
COOL_DOWN_SECONDS = 0.5
STREAMS_STARTED_PER_SECOND = 200
_MB = 1e6
_SITE_CLIENTS: dict[str, type[SocketClient | EventStreamClient | CompletionClient]] = {
    "socket": SocketClient,
    "slow-socket": SlowSocketClient,
    "events": EventStreamClient,
    "completions": CompletionClient,
}


@dataclass(frozen=True, slots=True)
class Load:
    target: Target
    url: str  # the provider's base URL, or the site's root
    model: str  # the script
    streams: int = 1
    rounds: int = 1  # turns of each stream, one after the other
    access_tokens: tuple[str, ...] = ()  # of the people who ask; streams take them in rotation
    processes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # what to measure, by name
    continued: bool = False  # the turns of a stream follow each other in one conversation
    ramp_seconds: float | None = None  # over which the streams start; None for 200 a second
    timeout_seconds: float = 120
    text: str = "Tell me a long story."
    requested_model: str = ""  # the site's name of the model, if that is not the script


@dataclass(frozen=True, slots=True)
class Percentiles:
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None

    @classmethod
    def of(cls, samples: "array[float]") -> "Percentiles":
        ordered = sorted(samples)
        return cls(*(_nearest_rank(ordered, share) for share in (0.5, 0.95, 0.99, 1)))


@dataclass(frozen=True, slots=True)
class Refusals:
    """Turns that the socket refused with `turn.rejected`."""

    count: int
    without_retry_after: int
    after_ms: Percentiles


@dataclass(frozen=True, slots=True)
class ProcessCost:
    """What a process tree used while the load ran."""

    cpu_seconds: float
    cpu_us_per_token: float | None
    cpu_ms_per_turn: float
    rss_before_mb: float  # before any client connected
    rss_peak_mb: float


@dataclass(frozen=True, slots=True)
class LoadReport:
    target: Target
    model: str
    streams: int
    rounds: int
    wall_seconds: float
    completed: int  # turns that ended without error and with every token
    errors: dict[str, int]
    tokens: int
    missing: int
    resent_characters: int
    restarts: int  # how often a turn's text started again
    first_token_added_ms: Percentiles  # beyond the provider's own delay
    token_added_ms: Percentiles  # from the provider's write to this client's read
    stretch: Percentiles  # the time from first to last token, divided by the time the script takes
    refusals: Refusals
    frames_per_token: float | None
    frames_per_second: float | None  # of a turn, between its first token and its last
    bytes_beyond_text_per_frame: float | None
    client_us_per_token: float | None
    processes: dict[str, ProcessCost]

    @property
    def ok(self) -> bool:
        return not self.errors and not self.missing


async def run(load: Load) -> LoadReport:
    """Open the clients, let them ask, and report. Raises ConnectionFailedError if one cannot be opened."""
    script = _timed_script(load.model)
    totals = Totals()
    before_opening = processes.measure_processes(load.processes)
    clients = make_clients(load)
    try:
        await open_clients(clients, load.rounds)
        before, cpu_before, begun = processes.measure_processes(load.processes), time.process_time(), time.monotonic()
        peaks = await _track_peak_memory(load, _ask_all(load, clients, totals, script))
        wall_seconds, cpu_seconds = time.monotonic() - begun, time.process_time() - cpu_before
        await asyncio.sleep(COOL_DOWN_SECONDS if load.processes else 0)
        after = processes.measure_processes(load.processes)
    finally:
        for client in clients:
            client.close()
    costs = {
        name: _cost(totals, load, after[name].cpu_seconds - before[name].cpu_seconds, before_opening[name], peaks[name])
        for name in load.processes
    }
    return _report(load, totals, wall_seconds, cpu_seconds, costs)


def measure_load(load: Load) -> LoadReport:
    """Run the load in an event loop of its own."""
    allow_many_sockets()
    with asyncio.Runner(loop_factory=new_fast_loop) as runner:
        return runner.run(run(load))


def _timed_script(model: str) -> Script:
    script = Script.parse(model)
    if not script.timed:
        raise ValueError(f"{model} has no -ns: its tokens cannot be timed")
    return script


def make_clients(load: Load) -> list[Client]:
    address = Address.parse(load.url)
    if load.target == "provider":
        return [ProviderClient(address, load.model, load.text) for _ in range(load.streams)]
    if not load.access_tokens:
        raise ValueError("a load on a site needs access tokens")
    kind = _SITE_CLIENTS[load.target]
    people = (load.access_tokens[number % len(load.access_tokens)] for number in range(load.streams))
    model = load.requested_model or load.model
    return [kind(address, model, load.text, token, continued=load.continued) for token in people]


async def open_clients(clients: Iterable[Client], turns: int) -> None:
    free = asyncio.Semaphore(MAX_OPENING_AT_ONCE)

    async def open_one(client: Client) -> None:
        async with free:
            await client.open(turns)

    for outcome in await asyncio.gather(*map(open_one, clients), return_exceptions=True):
        if outcome is not None:
            raise outcome


async def _ask_all(load: Load, clients: list[Client], totals: Totals, script: Script) -> None:
    ramp = len(clients) / STREAMS_STARTED_PER_SECOND if load.ramp_seconds is None else load.ramp_seconds

    async def ask(number: int, client: Client) -> None:
        await asyncio.sleep(ramp * number / len(clients))
        for _ in range(load.rounds):
            measurement = TurnMeasurement(totals, script)
            measurement.end(await _one_turn(client, measurement, load.timeout_seconds))

    async with asyncio.TaskGroup() as asking:
        for number, client in enumerate(clients):
            asking.create_task(ask(number, client))


async def _one_turn(client: Client, measurement: TurnMeasurement, timeout_seconds: float) -> str | None:
    try:
        return await asyncio.wait_for(client.turn(measurement), timeout_seconds)
    except TimeoutError:
        client.close()
        return "timeout"
    except ConnectionFailedError as error:
        return error.kind


async def _track_peak_memory(load: Load, asking: Coroutine[Any, Any, None]) -> dict[str, int]:
    """Wait for the load to end; return the peak memory of each process tree."""
    peaks: dict[str, int] = defaultdict(int)
    task = asyncio.create_task(asking)
    while not task.done():
        await asyncio.wait([task], timeout=MEMORY_PROBE_SECONDS if load.processes else None)
        for name, usage in processes.measure_processes(load.processes).items():
            peaks[name] = max(peaks[name], usage.rss_bytes)
    await task
    return peaks


def _cost(
    totals: Totals, load: Load, cpu_seconds: float, before: processes.ProcessUsage, peak_bytes: int
) -> ProcessCost:
    return ProcessCost(
        cpu_seconds=round(cpu_seconds, 2),
        cpu_us_per_token=_per(cpu_seconds * 1e6, totals.tokens),
        cpu_ms_per_turn=round(cpu_seconds * 1e3 / (load.streams * load.rounds), 3),
        rss_before_mb=round(before.rss_bytes / _MB, 1),
        rss_peak_mb=round(peak_bytes / _MB, 1),
    )


def _report(
    load: Load, totals: Totals, wall_seconds: float, client_cpu_seconds: float, costs: dict[str, ProcessCost]
) -> LoadReport:
    return LoadReport(
        target=load.target,
        model=load.model,
        streams=load.streams,
        rounds=load.rounds,
        wall_seconds=round(wall_seconds, 2),
        completed=totals.completed,
        errors=dict(totals.errors),
        tokens=totals.tokens,
        missing=totals.missing,
        resent_characters=totals.resent_characters,
        restarts=totals.restarts,
        first_token_added_ms=Percentiles.of(totals.first_added_ms),
        token_added_ms=Percentiles.of(totals.token_added_ms),
        stretch=Percentiles.of(totals.stretch),
        refusals=Refusals(
            len(totals.refused_after_ms), totals.refused_without_retry_after, Percentiles.of(totals.refused_after_ms)
        ),
        frames_per_token=_per(totals.frames, totals.tokens),
        frames_per_second=_per(totals.frames * 1e3, totals.streaming_ms),
        bytes_beyond_text_per_frame=_per(totals.bytes_beyond_text, totals.frames),
        client_us_per_token=_per(client_cpu_seconds * 1e6, totals.tokens),
        processes=costs,
    )


def _per(total: float, count: float) -> float | None:
    return round(total / count, 3) if count else None


def _nearest_rank(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 3)


def _named_pids(arguments: list[str]) -> dict[str, tuple[int, ...]]:
    """Parse `web=12 web=13 runner=14` into process ids by name."""
    found: dict[str, tuple[int, ...]] = {}
    for argument in arguments:
        name, _, pid = argument.partition("=")
        found[name] = (*found.get(name, ()), int(pid))
    return found


def _parse_arguments() -> Load:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=get_args(Target), required=True)
    parser.add_argument("--url", required=True, help="the provider's base URL, or the site's root")
    parser.add_argument("--model", default="fake-200t-20ms-ns")
    parser.add_argument("--streams", type=int, default=50, help="at once")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each stream, one after the other")
    parser.add_argument("--continued", action="store_true", help="a stream's turns share one conversation")
    parser.add_argument("--tokens", type=Path, help="a file of access tokens, one a line")
    parser.add_argument("--pid", action="append", default=[], metavar="NAME=PID", help="a process tree to measure")
    parser.add_argument("--ramp", type=float, help="seconds over which the streams start (200 a second)")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for a turn")
    given = parser.parse_args()
    return Load(
        target=given.target,
        url=given.url,
        model=given.model,
        streams=given.streams,
        rounds=given.rounds,
        access_tokens=tuple(given.tokens.read_text().split()) if given.tokens else (),
        processes=_named_pids(given.pid),
        continued=given.continued,
        ramp_seconds=given.ramp,
        timeout_seconds=given.timeout,
    )


def main() -> None:
    report = measure_load(_parse_arguments())
    print(json.dumps(asdict(report)))
    sys.exit(0 if report.ok else 1)


if __name__ == "__main__":
    main()
