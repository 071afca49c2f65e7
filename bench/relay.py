"""`python -m bench.relay`: what the OpenAI-compatible API adds to a provider's answers, beside the socket.

A provider and a whole site run, as in `bench.run`; the same timed script is read from the provider, over the socket and
over `/v1/chat/completions`, in turns, with 1, 50 and 200 streams. Each figure is the median of several rounds; what
the API costs of the socket is the median of the rounds' own ratios, since a machine's pace changes between them. The
table is added to `bench/RESULTS.md`; it takes eight minutes.
"""

import argparse
import os
import statistics
import time
from contextlib import ExitStack
from datetime import UTC, datetime

from bench import baselines, conditions
from bench.load import Load, LoadReport, measure_load
from bench.results import RESULTS, format_number, insert_entry, table
from bench.run import UNLIMITED
from testbed.many_connections import allow_many_sockets
from testbed.site import Site

SCRIPT = "fake-200t-20ms-ns"  # 50 tokens a second
STREAMS = (1, 50, 200)
ROUNDS = {1: 5, 50: 7, 200: 5}
PARTS = ("web0", "runner0", "valkey", "worker")
MOST_ABOVE_SOCKET = 1.1
"""What a token may cost by the API, in that of the socket."""

Key = tuple[int, str]
"""How many streams, and how they are read."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    begun, before, commit = time.monotonic(), conditions.OtherCpuTime.now(), conditions.describe_commit()
    last = baselines.pick_core(-1)
    with ExitStack() as stack:
        reports, versions = measure_relay(stack, last)
    facts = [
        conditions.describe_machine() + ("" if last else ", not pinned to cores"),
        versions,
        f"streams of 200 tokens, 50 a second; median of {ROUNDS[1]}, {ROUNDS[50]} and {ROUNDS[200]} rounds",
        f"{time.monotonic() - begun:.0f} s; {conditions.OtherCpuTime.now() - before}",
    ]
    title = f"### {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {commit}: the OpenAI-compatible API"
    text = "\n\n".join([title, "\n".join(f"- {fact}" for fact in facts), relay_table(reports)])
    print(text)
    RESULTS.write_text(insert_entry(RESULTS.read_text(), text))


def measure_relay(stack: ExitStack, last: set[int] | None) -> tuple[dict[Key, list[LoadReport]], str]:
    """Return the reports of every way to read, and the versions of what ran."""
    allow_many_sockets()
    if first := baselines.pick_core(0):
        os.sched_setaffinity(0, first)
    provider = stack.enter_context(baselines.provider())
    site = stack.enter_context(Site(provider.url, [SCRIPT], cores=last))
    people = tuple(site.create_members(max(STREAMS), plan=UNLIMITED))
    reports: dict[Key, list[LoadReport]] = {}
    for streams in STREAMS:
        for number in range(ROUNDS[streams] + 1):
            ways = ("provider", "socket", "completions") if number % 2 else ("provider", "completions", "socket")
            for way in ways:
                report = ask_by(provider, site, way, streams, people)
                assert report.ok, report
                if number:  # the first round opens connections, and imports what is imported late
                    reports.setdefault((streams, way), []).append(report)
    return reports, conditions.describe_versions(site.environment["REDIS_URL"])


def ask_by(provider: baselines.Upstream, site: Site, way: str, streams: int, people: tuple[str, ...]) -> LoadReport:
    if way == "provider":
        load = Load("provider", provider.url, SCRIPT, streams)
    else:
        processes: dict[str, tuple[int, ...]] = {part: (site.pid(part),) for part in PARTS}
        target = "socket" if way == "socket" else "completions"
        load = Load(target, f"http://127.0.0.1:{site.port()}", SCRIPT, streams, 1, people, processes)  # type: ignore[arg-type]
    report = measure_load(load)
    print(f"  {streams} × {way}: {format_number(site_cost_of(report))} µs a token", flush=True)
    return report


def site_cost_of(report: LoadReport) -> float:
    """Return the CPU of all processes of the site for a token, in µs."""
    return sum(cost.cpu_us_per_token or 0 for cost in report.processes.values())


def part_cost_of(part: str, reports: list[LoadReport]) -> float:
    return statistics.median(report.processes[part].cpu_us_per_token or 0 for report in reports)


def relay_table(reports: dict[Key, list[LoadReport]]) -> str:
    rows = []
    for (streams, way), found in reports.items():
        cost = statistics.median(map(site_cost_of, found))
        sockets = map(site_cost_of, reports[streams, "socket"])
        ratio = statistics.median(site_cost_of(one) / socket for one, socket in zip(found, sockets, strict=True))
        is_judged = way == "completions" and streams > 1
        verdict = "met" if ratio <= MOST_ABOVE_SOCKET else "**missed**"
        parts = [] if way == "provider" else [part_cost_of(part, found) for part in PARTS]
        first = statistics.median(report.first_token_added_ms.p50 or 0 for report in found)
        late = statistics.median(report.token_added_ms.p99 or 0 for report in found)
        rows.append(
            (
                str(streams),
                way,
                format_number(first),
                format_number(late),
                "–" if way == "provider" else " / ".join(map(format_number, parts)),
                "–" if way == "provider" else format_number(cost),
                f"{ratio:.2f} × (≤ {MOST_ABOVE_SOCKET} ×: {verdict})" if is_judged else "",
            )
        )
    head = (
        *("streams", "read from", "first token later, ms (p50)", "a token later, ms (p99)"),
        *(f"{' / '.join(PARTS)}, µs a token", "all, µs a token", "of the socket's"),
    )
    return table(head, rows)


if __name__ == "__main__":
    main()
