"""Half the load that one core holds, hour after hour: nothing grows, nothing is lost."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import pytest
import redis

from bench import baselines, processes
from bench.load import Load, LoadReport, measure_load
from bench.run import STEADY, UNLIMITED
from testbed.site import Site
from tests.processes.stores import fresh_store

SOAK = bool(os.environ.get("SOAK"))
STREAMS = int(os.environ.get("STREAMS", "150")) if SOAK else 5
SECONDS = float(os.environ.get("SOAK_MINUTES", "60")) * 60 if SOAK else 15
ROUNDS = 10 if SOAK else 2
"""Turns of a stream before its socket is closed and another opened: four seconds each."""
EVERY_SECONDS = 10 if SOAK else 1
WARM_UP_SECONDS = max(0.1 * SECONDS, 300)
LOGS_KEPT_SECONDS = 300
"""Logs live for a minute after a turn's end, Celery's own keys for some more: before that, Valkey is bound to grow."""
MAX_GROWTH = 1.05
MAX_MB = 400
PROCESSES = ("web0", "runner0", "worker", "valkey")


@dataclass(frozen=True)
class Sample:
    at_seconds: float
    memory_mb: dict[str, float]  # resident, by process
    stored_mb: float
    keys: int


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 600)
def test_under_half_the_load_memory_stays_flat_and_nothing_is_lost() -> None:
    reports: list[LoadReport] = []
    with run_site() as site:
        people = tuple(site.create_members(STREAMS, plan=UNLIMITED))
        load = Load("socket", f"http://127.0.0.1:{site.port()}", STEADY, STREAMS, ROUNDS, people)
        with sampling(site) as samples:
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                reports.append(measure_load(load))
                print(told(reports[-1], samples[-1]), flush=True)
        found = settled(site)
    assert [report.errors for report in reports if not report.ok] == []
    assert sum(report.resent_characters + report.missing for report in reports) == 0
    assert (found["held"], found["unbalanced"]) == (0, [])
    check_growth(samples)


def settled(site: Site) -> dict[str, Any]:
    """Return the ledger when nothing is held any more, or as it is after a minute."""
    deadline = time.monotonic() + 60
    while (found := site.ledger())["held"] and time.monotonic() < deadline:
        time.sleep(1)
    return found


@contextmanager
def run_site() -> Iterator[Site]:
    """Run a site and, as a process of its own, the provider it asks; print the site's logs if the block fails."""
    environment = {"ACCESS_TOKEN_EXPIRE_MINUTES": "1440", **fresh_store()}
    with baselines.provider() as provider, Site(provider.url, [STEADY], environment=environment) as site:
        try:
            yield site
        except BaseException:
            print(site.logs())
            raise


@contextmanager
def sampling(site: Site) -> Iterator[list[Sample]]:
    """Look at memory every EVERY_SECONDS, from now to the end of the block."""
    begun, over = time.monotonic(), threading.Event()
    samples = [sample(site, begun)]

    def keep_sampling() -> None:
        while not over.wait(EVERY_SECONDS):
            samples.append(sample(site, begun))

    thread = threading.Thread(target=keep_sampling)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def sample(site: Site, begun: float) -> Sample:
    usage = processes.measure_processes({name: (site.pid(name),) for name in PROCESSES})
    with redis.Redis.from_url(site.environment["REDIS_URL"]) as client:
        stored, keys = client.info("memory")["used_memory"], client.dbsize()
    memory = {name: usage[name].rss_bytes / 1e6 for name in PROCESSES}
    return Sample(time.monotonic() - begun, memory, stored / 1e6, keys)


def told(report: LoadReport, last: Sample) -> str:
    memory = ", ".join(f"{name} {megabytes:.0f}" for name, megabytes in last.memory_mb.items())
    return (
        f"{last.at_seconds:5.0f} s: {report.completed} turns, errors {report.errors}, "
        f"added p50 {report.token_added_ms.p50} p99 {report.token_added_ms.p99} ms, "
        f"MB: {memory}, Valkey's data {last.stored_mb:.0f} with {last.keys} keys"
    )


def check_growth(samples: list[Sample]) -> None:
    """Compare the first quarter after the warm-up with the last, if the run was long enough for it."""
    rows = [(name, WARM_UP_SECONDS, [one.memory_mb[name] for one in samples]) for name in PROCESSES[:3]]
    assert [name for name, _, figures in rows if max(figures) > MAX_MB] == []
    rows.append(("valkey", LOGS_KEPT_SECONDS, [one.memory_mb["valkey"] for one in samples]))
    rows.append(("Valkey's data", LOGS_KEPT_SECONDS, [one.stored_mb for one in samples]))
    rows.append(("Valkey's keys", LOGS_KEPT_SECONDS, [float(one.keys) for one in samples]))
    grown = []
    for name, since, figures in rows:
        warm = [figure for one, figure in zip(samples, figures, strict=True) if one.at_seconds >= since]
        quarter = len(warm) // 4
        if quarter < 3:
            print(f"{name}: {figures[0]:.1f} to {figures[-1]:.1f}, too short a run to compare")
            continue
        first, last = median(warm[:quarter]), median(warm[-quarter:])
        print(f"{name}: {first:.1f} to {last:.1f}, {last / first - 1:+.1%}")
        if last > first * MAX_GROWTH:
            grown.append(name)
    assert grown == []
