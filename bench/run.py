"""`python -m bench.run`: what the site adds between a provider and its readers, measured beside the provider itself.

Starts a provider and a site (web, runner, worker, Valkey; SQLite unless `--database-url` names another database), puts
one load after the other on both in turns, prints the figures with their budgets, and adds them to `bench/RESULTS.md`,
whose head explains them. Where cores can be chosen the site has the last one for itself, nginx stands in its place
where it is installed, and provider and client share the first.

    python -m bench.run                                      everything, ten minutes
    python -m bench.run --quick                              the figures a change is likely to move, two minutes
    python -m bench.run --database-url postgresql://…        an empty database: the site's tables are made in it
    python -m bench.run --target events                      by the API's event stream, in the socket's place
"""

import argparse
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from bench import beside, budgets, machine
from bench.held import is_held, largest, ramp_seconds
from bench.load import Load, Report, measure
from bench.pages import time_page
from bench.results import RESULTS, Bar, Budget, bars, number, pair, table, with_entry
from bench.slow import measure_beside
from testbed.loops import allow_many_sockets
from testbed.site import Site

UNLIMITED = {"turns_per_hour": None, "turns_at_once": None, "credits_per_month": None}
STEADY = "fake-200t-20ms-ns"  # 200 tokens, 50 a second
LONG = "fake-1000t-20ms-ns"
BURST = "fake-200t-0ms-ns"
SHORT = "fake-1t-0ms-ns"
FIRST = "fake-20t-5ms-ns"
HEAVY = "fake-60t-500ms-p8000-ns"  # 16 KB a second
MODELS = [STEADY, LONG, BURST, SHORT, FIRST, HEAVY]

MANY = 200
PAGE_TURNS = 30
CAP = 1_600
AT_ONCE = 2_000
HOLD = 300

US_ELSEWHERE = [Bar("nginx", 20, True), Bar("LiteLLM", 827, True), Bar("Open WebUI", 1_157, True)]
HELD_ELSEWHERE = [Bar("nginx", 900, True), Bar("LiteLLM", 20, True), Bar("Open WebUI", 16, True)]


Way = Literal["socket", "events"]


@dataclass(frozen=True, slots=True)
class Pair:
    """The same load on the provider and on the site; and on nginx, where it was asked to."""

    name: str
    direct: Report
    site: Report
    nginx: Report | None = None


@dataclass
class Bench:
    """Who is measured, and what was reported of the site so far."""

    provider: beside.Upstream
    nginx: beside.Upstream | None
    site: Site
    target: Way
    people: tuple[str, ...]
    reports: list[Report] = field(default_factory=list)

    def ask_site(self, model: str, streams: int, rounds: int = 1, *, ramp: float | None = None) -> Report:
        report = measure(self.load(model, streams, rounds, ramp))
        self.reports.append(report)
        return _told("site", report)

    def ask_upstream(
        self, name: str, upstream: beside.Upstream, model: str, streams: int, rounds: int = 1, ramp: float | None = None
    ) -> Report:
        load = Load("provider", upstream.url, model, streams, rounds, processes={name: (upstream.pid,)})
        return _told(name, measure(replace(load, ramp_seconds=ramp)))

    def ask_in_turns(
        self, name: str, model: str, streams: int, rounds: int = 1, *, ramp: float | None = None, nginx: bool = False
    ) -> Pair:
        direct = self.ask_upstream("provider", self.provider, model, streams, rounds, ramp)
        between = None
        if nginx and self.nginx:
            between = self.ask_upstream("nginx", self.nginx, model, streams, rounds, ramp)
        return Pair(name, direct, self.ask_site(model, streams, rounds, ramp=ramp), between)

    def load(self, model: str, streams: int, rounds: int = 1, ramp: float | None = None) -> Load:
        processes: dict[str, tuple[int, ...]] = {name: (self.site.pid(name),) for name in budgets.PARTS.values()}
        ramp = ramp_seconds(streams) if ramp is None else ramp
        return Load(self.target, self.url, model, streams, rounds, self.people, processes, ramp_seconds=ramp)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.site.port()}"

    @property
    def turns(self) -> int:
        return sum(report.streams * report.rounds for report in self.reports)


@dataclass
class Found:
    """What a run has found so far."""

    budgets: list[Budget] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    crowds: list[tuple[str, Report]] = field(default_factory=list)
    tries: dict[int, Report] = field(default_factory=dict)  # by number of streams
    bars: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--target", choices=("socket", "events"), default="socket", help="how the site is asked")
    parser.add_argument("--database-url", help="an empty database, in place of SQLite in a temporary folder")
    given = parser.parse_args()
    begun, before, commit = time.monotonic(), machine.Spent.now(), machine.describe_commit()
    last = beside.core(-1)
    with ExitStack() as stack:
        bench = start(stack, last, given.target, given.database_url, people=HOLD if given.quick else AT_ONCE)
        found = measure_quickly(bench) if given.quick else measure_all(bench)
        versions = machine.describe_versions(bench.site.environment["REDIS_URL"])
    facts = [
        machine.describe_machine() + ("" if last else ", not pinned to cores"),
        versions + (f", {beside.nginx_version()}" if bench.nginx else ", no nginx"),
        f"{(given.database_url or 'sqlite').partition(':')[0]}, read by {given.target}",
        f"{time.monotonic() - begun:.0f} s; {machine.Spent.now() - before}",
    ]
    quick = ", quick" if given.quick else ""
    text = entry(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {commit}{quick}", facts, found)
    print(text)
    RESULTS.write_text(with_entry(RESULTS.read_text(), text))


def start(stack: ExitStack, last: set[int] | None, target: Way, database_url: str | None, *, people: int) -> Bench:
    """Start everybody who is measured; the stack ends them."""
    allow_many_sockets()  # here, so that the site may have as many
    if first := beside.core(0):
        os.sched_setaffinity(0, first)  # this client, and what it starts, unless it says otherwise
    provider = stack.enter_context(beside.provider())
    nginx = stack.enter_context(beside.nginx(provider.url, last))
    environment = {"DATABASE_URL": database_url} if database_url else {}
    site = stack.enter_context(Site(provider.url, MODELS, cores=last, environment=environment))
    return Bench(provider, nginx, site, target, tuple(site.members(people, plan=UNLIMITED)))


def measure_all(bench: Bench) -> Found:
    found = Found()
    _, few, many, crowd = path(bench, found, {1: 3, 50: 2, MANY: 2, 500: 2})
    found.budgets[1:1] = [long_turns(bench, found, many), hold(bench, found, first=MANY)]
    small(bench, found, many, few, first_rounds=40, turn_rounds=125)
    found.crowds.append(("500 in 2.5 s", crowd.site))
    found.budgets += [*budgets.crowd(crowd.site), slow_readers(bench)]
    found.crowds.append((f"{AT_ONCE:,} at once", at_once := bench.ask_site(STEADY, AT_ONCE, ramp=0)))
    found.budgets.append(budgets.refusals(at_once))
    return found


def measure_quickly(bench: Bench) -> Found:
    found = Found()
    _, few, many = path(bench, found, {1: 1, 50: 1, MANY: 2})
    found.tries[HOLD] = bench.ask_site(STEADY, HOLD, 2)
    small(bench, found, many, few, first_rounds=20, turn_rounds=50)
    return found


def path(bench: Bench, found: Found, rounds: dict[int, int]) -> list[Pair]:
    """More and more streams at 50 tokens a second, with so many rounds each; a burst; and what they tell of a token."""
    bench.ask_site(SHORT, 20, 3)  # caches filled, connections made
    steady = [
        bench.ask_in_turns(f"{streams}", STEADY, streams, count, nginx=streams == MANY)
        for streams, count in rounds.items()
    ]
    burst = bench.ask_in_turns("50, burst", BURST, 50, 4, ramp=0)
    found.pairs += [*steady, burst]
    [many] = (pair for pair in steady if pair.site.streams == MANY)
    found.budgets.append(budgets.a_token(many.site, many.direct, many.nginx))
    here = [Bar("Tertulia", budgets.cpu_us(many.site))]
    if many.nginx:
        here.append(Bar("nginx", budgets.cpu_us(many.nginx)))
    found.bars.append(bars(f"CPU a relayed token, {MANY} streams, µs", [*here, *US_ELSEWHERE]))
    return steady


def long_turns(bench: Bench, found: Found, many: Pair) -> Budget:
    long = bench.ask_in_turns(f"{MANY}, 1,000 tokens", LONG, MANY)
    found.pairs.append(long)
    return budgets.a_token_more(many.site, long.site)


def hold(bench: Bench, found: Found, first: int) -> Budget:
    """How many streams one core holds."""

    def holds(streams: int) -> bool:
        time.sleep(1)  # the turns of the try before are settled and written
        found.tries[streams] = report = bench.ask_site(STEADY, streams, 2)
        return is_held(report)

    streams = largest(holds, first=first, cap=CAP)
    found.bars.append(bars("streams of 50 tokens/s held on one core", [Bar("Tertulia", streams), *HELD_ELSEWHERE]))
    return Budget("streams of 50 tokens/s held on one core", 300, streams, at_least=True)


def small(bench: Bench, found: Found, many: Pair, few: Pair, *, first_rounds: int, turn_rounds: int) -> None:
    """Whatever is no matter of many streams."""
    first = bench.ask_in_turns("", FIRST, 1, first_rounds)
    turn = bench.ask_site(SHORT, 8, turn_rounds)
    found.budgets += [budgets.first_token(first.site, first.direct), budgets.a_turn(turn)]
    found.budgets += budgets.memory(few.site, many.site, turn, bench.turns)
    found.budgets += budgets.wire(many.site, bench.reports)
    reader = bench.people[0]
    [session], conversation = bench.site.sessions([reader]), bench.site.converse(reader, PAGE_TURNS)
    taken = time_page(bench.site.port(), f"/c/{conversation}/", session, 100)
    found.budgets.append(budgets.chat_page(taken, PAGE_TURNS))


def slow_readers(bench: Bench) -> Budget:
    """Fast readers alone, beside many that read nearly nothing, and beside as many that keep up."""
    fast = bench.load(STEADY, 100, 2, ramp=4)  # so few at a time that asking does not keep the core busy
    crowd = replace(bench.load(HEAVY, MANY), access_tokens=bench.people[100 : 100 + MANY])
    alone = _told("fast ones alone", measure(fast))
    slow = measure_beside(replace(crowd, target="slow-socket"), fast)
    _told(f"beside {MANY} slow ones", slow.fast)
    bench.provider.reset()
    time.sleep(2)  # the turns that were dropped are settled and written
    keen = measure_beside(replace(crowd, target="socket"), fast)
    _told(f"beside {MANY} that keep up", keen.fast)
    bench.provider.reset()
    time.sleep(2)
    return budgets.slow_readers(alone, slow.fast, keen.fast, slow.read_share)


def entry(title: str, facts: list[str], found: Found) -> str:
    """Return what was found, as a section of RESULTS.md."""
    blocks = [
        f"### {title}",
        "\n".join(f"- {fact}" for fact in facts),
        table(("figure", "budget", "measured", "", "of which"), [budget.row for budget in found.budgets]),
        "Provider itself / site, ms:",
        table(
            ("streams", "added to first token p50", "p99", "added to a token p50", "p99", "stretch p99", "µs a token", "errors"),
            [_pair_row(pair) for pair in found.pairs],
        ),
        *([f"Tries of two rounds: {'; '.join(map(_try, found.tries.items()))}."] if found.tries else []),
    ]  # fmt: skip
    if found.crowds:
        head = (
            "crowd",
            "completed",
            "refused",
            "refused after p99 / max ms",
            "first token p99 ms",
            "token p99 ms",
            "errors",
        )
        blocks.append(table(head, [_crowd_row(name, report) for name, report in found.crowds]))
    return "\n\n".join([*blocks, *found.bars])


def _pair_row(found: Pair) -> tuple[str, ...]:
    direct, site = found.direct, found.site
    return (
        found.name,
        pair(direct.first_token_added_ms.p50, site.first_token_added_ms.p50),
        pair(direct.first_token_added_ms.p99, site.first_token_added_ms.p99),
        pair(direct.token_added_ms.p50, site.token_added_ms.p50),
        pair(direct.token_added_ms.p99, site.token_added_ms.p99),
        pair(direct.stretch.p99, site.stretch.p99),
        number(budgets.cpu_us(site)),
        f"{_errors(direct)} / {_errors(site)}",
    )


def _crowd_row(name: str, report: Report) -> tuple[str, ...]:
    refused = report.refusals
    return (
        name,
        f"{report.completed:,}",
        f"{refused.count:,}" + (f", {refused.without_retry_after:,} without retry_after" if refused.count else ""),
        pair(refused.after_ms.p99, refused.after_ms.max),
        number(report.first_token_added_ms.p99),
        number(report.token_added_ms.p99),
        _errors(report),
    )


def _try(tried: tuple[int, Report]) -> str:
    streams, report = tried
    figures = f"token p99 {number(report.token_added_ms.p99)} ms, first {number(report.first_token_added_ms.p99)} ms"
    return f"{streams} {'held' if is_held(report) else 'not held'} ({figures}, stretch {number(report.stretch.p99)})"


def _errors(report: Report) -> str:
    found = {**report.errors, **({"tokens missing": report.missing} if report.missing else {})}
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(found.items())) or "none"


def _told(name: str, report: Report) -> Report:
    """Say on the way what was measured: ten minutes are long."""
    added, cost = pair(report.token_added_ms.p50, report.token_added_ms.p99), number(budgets.cpu_us(report))
    print(f"{name}, {report.streams} × {report.rounds} × {report.model}: {cost} µs a token, added {added} ms,", end=" ")
    print(f"{report.completed} completed, errors: {_errors(report)}", flush=True)
    return report


if __name__ == "__main__":
    main()
