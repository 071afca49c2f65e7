"""What every process counts for Prometheus: its event loop, its pools and threads, its tasks, its answers.

The figures of turns are in `chat/turns/metrics.py`, those of providers in `chat/llm/metrics.py`, those of the whole
site in `config/site_figures.py`; docs/metrics.md lists them all. What is counted here costs a turn, a task or a request
some microseconds, and a token nothing.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

from prometheus_client import REGISTRY, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

LAG_SECONDS = 0.25
"""How often an event loop is asked how late it is."""

LAST_STEP = 10.0
"""Seconds: of what is later than that, no more is known."""
LOOP_LAG = Histogram(
    "tertulia_event_loop_lag_seconds",
    "How late the event loop of a web process or a runner came back to what it should have done.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, LAST_STEP),
)
RESPONSES = Counter("tertulia_responses", "Answers to HTTP requests, by the first digit of their status.", ["status"])
TASKS_SENT = Counter("tertulia_tasks_sent", "Celery tasks that this process has sent, by name.", ["task"])
TASKS_ENDED = Counter(
    "tertulia_tasks_ended", "Celery tasks that have ended here, by name and state.", ["task", "state"]
)
TASK_SECONDS = Histogram(
    "tertulia_task_seconds",
    "How long Celery tasks took.",
    ["task"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)

PoolUse = Callable[[], tuple[int, int]]
"""Returns how many of a pool's places are in use, and how many there are."""

_pools: dict[str, PoolUse] = {}


def watch_pool(name: str, use: PoolUse) -> None:
    """Show the use of a pool of connections or threads from now on."""
    _pools[name] = use


def read_pools() -> dict[str, tuple[int, int]]:
    """Return what of each pool is in use, and its size; one that was closed is not there."""
    found = {}
    for name, use in tuple(_pools.items()):
        with suppress(ReferenceError, AttributeError):
            found[name] = use()
    return found


class PoolCollector(Collector):
    def collect(self) -> Iterable[GaugeMetricFamily]:
        in_use = GaugeMetricFamily("tertulia_pool_in_use", "Places of a pool that are in use.", labels=["pool"])
        size = GaugeMetricFamily("tertulia_pool_size", "Places that a pool has.", labels=["pool"])
        for name, (used, places) in read_pools().items():
            in_use.add_metric([name], used)
            size.add_metric([name], places)
        return in_use, size


REGISTRY.register(PoolCollector())


async def watch_loop() -> None:
    """Measure for ever how late the running loop is."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_SECONDS
        await asyncio.sleep(LAG_SECONDS)
        LOOP_LAG.observe(max(0.0, loop.time() - due))
