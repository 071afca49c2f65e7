"""`python -m bench.run`: measures what the site adds to a provider's answers, compared with the provider itself.

Starts a provider and a site (web, runner, worker, Valkey; SQLite unless `--database-url` names another database), puts
the same loads on both in turns, prints the figures with their budgets, and adds them to `bench/RESULTS.md`, whose head
explains them. If processes can be pinned, the site has the last core for itself; so has nginx, if it is installed, when
it is measured in the site's place. Provider and client share the first core.

    python -m bench.run                                      everything, ten minutes
    python -m bench.run --quick                              the figures a change is likely to move, two minutes
    python -m bench.run --database-url postgresql://…        an empty database, in which the site's tables are created
    python -m bench.run --target events                      by the API's event stream instead of the socket
"""

import argparse
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from bench import baselines, budgets, conditions
from bench.capacity import find_largest, is_held, ramp_seconds
from bench.load import Load, LoadReport, measure_load
from bench.pages import time_page
from bench.results import RESULTS, Bar, BudgetedFigure, bar_chart, format_number, insert_entry, join_numbers, table
from bench.slow_readers import measure_with_crowd
from testbed.many_connections import allow_many_sockets
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
MAX_STREAMS = 1_600
AT_ONCE = 2_000
HOLD = 300

US_ELSEWHERE = [Bar("nginx", 20, True), Bar("LiteLLM", 827, True), Bar("Open WebUI", 1_157, True)]
HELD_ELSEWHERE = [Bar("nginx", 900, True), Bar("LiteLLM", 20, True), Bar("Open WebUI", 16, True)]


Way = Literal["socket", "events"]


@dataclass(frozen=True, slots=True)
class Pair:
    """The same load on the provider and on the site, and on nginx if wanted."""

    name: str
    direct: LoadReport
    site: LoadReport
    nginx: LoadReport | None = None


@dataclass
class Bench:
    """What is measured, and the reports of the site so far."""

    provider: baselines.Upstream
    nginx: baselines.Upstream | None
    site: Site
    target: Way
    people: tuple[str, ...]
    reports: list[LoadReport] = field(default_factory=list)

    def ask_site(self, model: str, streams: int, rounds: int = 1, *, ramp: float | None = None) -> LoadReport:
        report = measure_load(self.load(model, streams, rounds, ramp))
        self.reports.append(report)
        return _print_report("site", report)

    def ask_upstream(
        self,
        name: str,
        upstream: baselines.Upstream,
        model: str,
        streams: int,
        rounds: int = 1,
        ramp: float | None = None,
    ) -> LoadReport:
        load = Load("provider", upstream.url, model, streams, rounds, processes={name: (upstream.pid,)})
        return _print_report(name, measure_load(replace(load, ramp_seconds=ramp)))

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
class Findings:
    """The results of a run so far."""

    budgets: list[BudgetedFigure] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    crowds: list[tuple[str, LoadReport]] = field(default_factory=list)
    tries: dict[int, LoadReport] = field(default_factory=dict)  # by number of streams
    bars: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--target", choices=("socket", "events"), default="socket", help="how the site is asked")
    parser.add_argument("--database-url", help="an empty database, in place of SQLite in a temporary folder")
    given = parser.parse_args()
    begun, before, commit = time.monotonic(), conditions.OtherCpuTime.now(), conditions.describe_commit()
    last = baselines.pick_core(-1)
    with ExitStack() as stack:
        bench = start(stack, last, given.target, given.database_url, people=HOLD if given.quick else AT_ONCE)
        findings = measure_quickly(bench) if given.quick else measure_all(bench)
        versions = conditions.describe_versions(bench.site.environment["REDIS_URL"])
    facts = [
        conditions.describe_machine() + ("" if last else ", not pinned to cores"),
        versions + (f", {baselines.nginx_version()}" if bench.nginx else ", no nginx"),
        f"{(given.database_url or 'sqlite').partition(':')[0]}, read by {given.target}",
        f"{time.monotonic() - begun:.0f} s; {conditions.OtherCpuTime.now() - before}",
    ]
    quick = ", quick" if given.quick else ""
    text = entry(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {commit}{quick}", facts, findings)
    print(text)
    RESULTS.write_text(insert_entry(RESULTS.read_text(), text))


def start(stack: ExitStack, last: set[int] | None, target: Way, database_url: str | None, *, people: int) -> Bench:
    """Start everything that is measured; the stack stops it."""
    allow_many_sockets()  # before the site is started: it inherits the limit
    if first := baselines.pick_core(0):
        os.sched_setaffinity(0, first)  # this client, and what it starts unless it is pinned elsewhere
    provider = stack.enter_context(baselines.provider())
    nginx = stack.enter_context(baselines.nginx(provider.url, last))
    environment = {"DATABASE_URL": database_url} if database_url else {}
    site = stack.enter_context(Site(provider.url, MODELS, cores=last, environment=environment))
    return Bench(provider, nginx, site, target, tuple(site.create_members(people, plan=UNLIMITED)))


def measure_all(bench: Bench) -> Findings:
    findings = Findings()
    _, few, many, crowd = measure_growing_loads(bench, findings, {1: 3, 50: 2, MANY: 2, 500: 2})
    findings.budgets[1:1] = [long_turns(bench, findings, many), find_capacity(bench, findings, first=MANY)]
    measure_small_loads(bench, findings, many, few, first_rounds=40, turn_rounds=125)
    findings.crowds.append(("500 in 2.5 s", crowd.site))
    findings.budgets += [*budgets.crowd(crowd.site), measure_slow_readers(bench)]
    findings.crowds.append((f"{AT_ONCE:,} at once", at_once := bench.ask_site(STEADY, AT_ONCE, ramp=0)))
    findings.budgets.append(budgets.refusals(at_once))
    return findings


def measure_quickly(bench: Bench) -> Findings:
    findings = Findings()
    _, few, many = measure_growing_loads(bench, findings, {1: 1, 50: 1, MANY: 2})
    findings.tries[HOLD] = bench.ask_site(STEADY, HOLD, 2)
    measure_small_loads(bench, findings, many, few, first_rounds=20, turn_rounds=50)
    return findings


def measure_growing_loads(bench: Bench, findings: Findings, rounds: dict[int, int]) -> list[Pair]:
    """Measure more and more streams at 50 tokens a second, with so many rounds each, then a burst; return the pairs."""
    bench.ask_site(SHORT, 20, 3)  # fills caches, opens connections
    steady = [
        bench.ask_in_turns(f"{streams}", STEADY, streams, count, nginx=streams == MANY)
        for streams, count in rounds.items()
    ]
    burst = bench.ask_in_turns("50, burst", BURST, 50, 4, ramp=0)
    findings.pairs += [*steady, burst]
    [many] = (pair for pair in steady if pair.site.streams == MANY)
    findings.budgets.append(budgets.cpu_of_a_token(many.site, many.direct, many.nginx))
    here = [Bar("Tertulia", budgets.cpu_us(many.site))]
    if many.nginx:
        here.append(Bar("nginx", budgets.cpu_us(many.nginx)))
    findings.bars.append(bar_chart(f"CPU a relayed token, {MANY} streams, µs", [*here, *US_ELSEWHERE]))
    return steady


def long_turns(bench: Bench, findings: Findings, many: Pair) -> BudgetedFigure:
    long = bench.ask_in_turns(f"{MANY}, 1,000 tokens", LONG, MANY)
    findings.pairs.append(long)
    return budgets.cpu_of_one_more_token(many.site, long.site)


def find_capacity(bench: Bench, findings: Findings, first: int) -> BudgetedFigure:
    """Find how many streams one core holds."""

    def holds(streams: int) -> bool:
        time.sleep(1)  # until the turns of the last try are settled and written
        findings.tries[streams] = report = bench.ask_site(STEADY, streams, 2)
        return is_held(report)

    streams = find_largest(holds, first=first, cap=MAX_STREAMS)
    findings.bars.append(
        bar_chart("streams of 50 tokens/s held on one core", [Bar("Tertulia", streams), *HELD_ELSEWHERE])
    )
    return BudgetedFigure("streams of 50 tokens/s held on one core", 300, streams, at_least=True)


def measure_small_loads(
    bench: Bench, findings: Findings, many: Pair, few: Pair, *, first_rounds: int, turn_rounds: int
) -> None:
    """Measure what does not depend on many streams: first token, turn, memory, bytes, page."""
    first = bench.ask_in_turns("", FIRST, 1, first_rounds)
    turn = bench.ask_site(SHORT, 8, turn_rounds)
    findings.budgets += [budgets.first_token(first.site, first.direct), budgets.cpu_of_a_turn(turn)]
    findings.budgets += budgets.memory(few.site, many.site, turn, bench.turns)
    findings.budgets += budgets.traffic(many.site, bench.reports)
    reader = bench.people[0]
    [session], conversation = bench.site.create_sessions([reader]), bench.site.create_conversation(reader, PAGE_TURNS)
    taken = time_page(bench.site.port(), f"/c/{conversation}/", session, 100)
    findings.budgets.append(budgets.chat_page(taken, PAGE_TURNS))


def measure_slow_readers(bench: Bench) -> BudgetedFigure:
    """Measure fast readers alone, beside many slow ones, and beside as many that keep up."""
    fast = bench.load(STEADY, 100, 2, ramp=4)  # so slowly that opening turns does not keep the core busy
    crowd = replace(bench.load(HEAVY, MANY), access_tokens=bench.people[100 : 100 + MANY])
    alone = _print_report("fast ones alone", measure_load(fast))
    slow = measure_with_crowd(replace(crowd, target="slow-socket"), fast)
    _print_report(f"beside {MANY} slow ones", slow.fast)
    bench.provider.reset()
    time.sleep(2)  # until the dropped turns are settled and written
    keen = measure_with_crowd(replace(crowd, target="socket"), fast)
    _print_report(f"beside {MANY} that keep up", keen.fast)
    bench.provider.reset()
    time.sleep(2)
    return budgets.slow_readers(alone, slow.fast, keen.fast, slow.read_share)


def entry(title: str, facts: list[str], findings: Findings) -> str:
    """Return the results as a section of RESULTS.md."""
    blocks = [
        f"### {title}",
        "\n".join(f"- {fact}" for fact in facts),
        table(("figure", "budget", "measured", "", "of which"), [budget.row for budget in findings.budgets]),
        "Provider itself / site, ms:",
        table(
            (
                *("streams", "added to first token p50", "p99", "added to a token p50", "p99"),
                *("stretch p99", "µs a token", "errors"),
            ),
            [_pair_row(pair) for pair in findings.pairs],
        ),
        *([f"Tries of two rounds: {'; '.join(map(_try, findings.tries.items()))}."] if findings.tries else []),
    ]  # fmt: skip
    if findings.crowds:
        head = (
            "crowd",
            "completed",
            "refused",
            "refused after p99 / max ms",
            "first token p99 ms",
            "token p99 ms",
            "errors",
        )
        blocks.append(table(head, [_crowd_row(name, report) for name, report in findings.crowds]))
    return "\n\n".join([*blocks, *findings.bars])


def _pair_row(pair: Pair) -> tuple[str, ...]:
    direct, site = pair.direct, pair.site
    return (
        pair.name,
        join_numbers(direct.first_token_added_ms.p50, site.first_token_added_ms.p50),
        join_numbers(direct.first_token_added_ms.p99, site.first_token_added_ms.p99),
        join_numbers(direct.token_added_ms.p50, site.token_added_ms.p50),
        join_numbers(direct.token_added_ms.p99, site.token_added_ms.p99),
        join_numbers(direct.stretch.p99, site.stretch.p99),
        format_number(budgets.cpu_us(site)),
        f"{_errors(direct)} / {_errors(site)}",
    )


def _crowd_row(name: str, report: LoadReport) -> tuple[str, ...]:
    refused = report.refusals
    return (
        name,
        f"{report.completed:,}",
        f"{refused.count:,}" + (f", {refused.without_retry_after:,} without retry_after" if refused.count else ""),
        join_numbers(refused.after_ms.p99, refused.after_ms.max),
        format_number(report.first_token_added_ms.p99),
        format_number(report.token_added_ms.p99),
        _errors(report),
    )


def _try(tried: tuple[int, LoadReport]) -> str:
    streams, report = tried
    token, first, stretch = report.token_added_ms.p99, report.first_token_added_ms.p99, report.stretch.p99
    figures = f"token p99 {format_number(token)} ms, first {format_number(first)} ms, stretch {format_number(stretch)}"
    return f"{streams} {'held' if is_held(report) else 'not held'} ({figures})"


def _errors(report: LoadReport) -> str:
    errors = {**report.errors, **({"tokens missing": report.missing} if report.missing else {})}
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(errors.items())) or "none"


def _print_report(name: str, report: LoadReport) -> LoadReport:
    """Print a report as soon as it is there: a run takes ten minutes."""
    added, cost = (
        join_numbers(report.token_added_ms.p50, report.token_added_ms.p99),
        format_number(budgets.cpu_us(report)),
    )
    print(f"{name}, {report.streams} × {report.rounds} × {report.model}: {cost} µs a token, added {added} ms,", end=" ")
    print(f"{report.completed} completed, errors: {_errors(report)}", flush=True)
    return report


if __name__ == "__main__":
    main()
