"""`python -m bench.run`: what the site adds between a provider and its readers, measured beside the provider itself.

Starts a provider and a site (web, runner, worker, Valkey, SQLite; metering, history and resume switched on), each figure
in turns with the direct provider, and prints a table with the budgets of docs/architecture.md. Where cores can be chosen
the site has the last one for itself, and provider and client share the first.
"""

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from bench.load import Load, Report, measure
from bench.site import Site, wait_for_port
from config import embedded

UNLIMITED = {"turns_per_hour": None, "turns_at_once": None, "credits_per_month": None}
STEADY = "fake-200t-20ms-ns"  # 200 tokens, 50 a second
SHORT = "fake-1t-0ms-ns"
FIRST = "fake-20t-5ms-ns"


@dataclass(frozen=True, slots=True)
class Row:
    figure: str
    budget: str
    direct: str
    site: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200, help="at once")
    parser.add_argument("--target", choices=("socket", "events"), default="socket")
    given = parser.parse_args()
    with provider() as provider_url, Site(provider_url, [STEADY, SHORT, FIRST], cores=_core(-1)) as site:
        people = tuple(site.members(given.streams, plan=UNLIMITED))
        processes: dict[str, tuple[int, ...]] = {name: (site.pid(name),) for name in ("web0", "runner0", "valkey")}
        bench = Bench(provider_url, f"http://127.0.0.1:{site.port()}", given.target, people, processes)
        rows = [*bench.steady(given.streams), *bench.first_token(), *bench.turns()]
    print(table(rows))


@contextlib.contextmanager
def provider() -> Iterator[str]:
    """Run the fake provider as a process of its own; yield its base URL."""
    port = embedded.any_free_port()
    command = [sys.executable, "-m", "bench.provider", "--port", str(port)]
    if cores := _core(0):
        os.sched_setaffinity(0, cores)  # this client, and what it starts, unless it says otherwise
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        child.terminate()
        child.wait()


@dataclass(frozen=True, slots=True)
class Bench:
    provider_url: str
    site_url: str
    target: str
    people: tuple[str, ...]
    processes: dict[str, tuple[int, ...]]  # pids by name

    def steady(self, streams: int) -> list[Row]:
        """Many streams at 50 tokens a second: CPU a token, and what is added to each."""
        self._site(STEADY, streams=min(20, streams))  # caches filled, connections made
        direct = self._direct(STEADY, streams=streams)
        site = self._site(STEADY, streams=streams)
        costs = {name: cost.cpu_us_per_token or 0.0 for name, cost in site.processes.items()}
        parts = ", ".join(f"{name} {cost:.0f}" for name, cost in costs.items())
        memory = max(cost.rss_peak_mb for cost in site.processes.values())
        return [
            Row(f"CPU a token at {streams} streams, us", "60", "", f"{sum(costs.values()):.0f} ({parts})"),
            Row("added to a token, p50 / p99 ms", "- / 100", _added(direct), _added(site)),
            Row("largest process, MB", "200", "", f"{memory:.0f}"),
            Row("bytes beyond its text, a message", "100", "", f"{site.bytes_beyond_text_per_frame:.0f}"),
            Row("messages a token", "0.6", "", f"{site.frames_per_token:.2f}"),
        ]

    def first_token(self) -> list[Row]:
        """One stream at a time: what is added before its first token."""
        direct = self._direct(FIRST, streams=1, rounds=30)
        site = self._site(FIRST, streams=1, rounds=30)
        shown = [f"{report.first_token_added_ms.p50:.1f}" for report in (direct, site)]
        return [Row("added to the first token, one stream, p50 ms", "15", *shown)]

    def turns(self) -> list[Row]:
        """Turns of one token: what opening and closing one costs."""
        site = self._site(SHORT, streams=8, rounds=25)
        costs = {name: cost.cpu_ms_per_turn for name, cost in site.processes.items()}
        parts = ", ".join(f"{name} {cost:.1f}" for name, cost in costs.items())
        return [Row("CPU to open and close a turn, ms", "8", "", f"{sum(costs.values()):.1f} ({parts})")]

    def _direct(self, model: str, *, streams: int, rounds: int = 1) -> Report:
        return _checked(measure(Load("provider", self.provider_url, model, streams, rounds)))

    def _site(self, model: str, *, streams: int, rounds: int = 1) -> Report:
        target = "socket" if self.target == "socket" else "events"
        load = Load(target, self.site_url, model, streams, rounds, self.people, self.processes)  # type: ignore[arg-type]
        return _checked(measure(load))


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| figure | budget | direct | site |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {row.figure} | {row.budget} | {row.direct} | {row.site} |" for row in rows)])


def _checked(report: Report) -> Report:
    if not report.ok:
        sys.exit(f"{report.target}: {report.errors}, {report.missing} tokens missing of {report.tokens}")
    return report


def _added(report: Report) -> str:
    return f"{report.token_added_ms.p50:.1f} / {report.token_added_ms.p99:.1f}"


def _core(index: int) -> set[int] | None:
    """Return the first or last core, where there are several and they can be chosen."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    return {cores[index]} if len(cores) > 1 else None


if __name__ == "__main__":
    main()
