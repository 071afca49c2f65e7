"""`python -m bench.transports`: measures the CPU of a token by our adapters and by the official SDKs, in each format.

The whole site runs, as in `bench.run`, on the last core; provider and client share the first. The runner, which reads
from the provider, is restarted between the transports. Each figure is the median of several rounds, each with all six
pairs of format and transport; the table is added to `bench/RESULTS.md`. It takes five minutes.
"""

import argparse
import os
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

from bench import baselines, conditions
from bench.load import Load, LoadReport, measure_load
from bench.results import RESULTS, format_number, insert_entry, table
from bench.run import UNLIMITED
from chat.provider_registry import COMPATIBLE
from testbed.many_connections import allow_many_sockets
from testbed.site import Site

SCRIPT = "fake-500t-20ms-ns"  # 50 tokens a second
WARM_UP = "fake-5t-5ms-ns"
FORMATS = {"OpenAI": COMPATIBLE, "Anthropic": "anthropic", "Google": "gemini"}
"""The provider that speaks it here, by the name of the format's owner."""
TRANSPORTS = ("fast", "sdk")
PARTS = ("runner0", "web0", "valkey")

Pair = tuple[str, str]
"""A format and a transport."""


@dataclass(frozen=True, slots=True)
class TokenCost:
    """CPU for each token, in µs; for the runner the median, least and most of the rounds."""

    runner: tuple[float, float, float]
    site: float

    @classmethod
    def of(cls, reports: list[LoadReport]) -> "TokenCost":
        runner = [report.processes["runner0"].cpu_us_per_token or 0 for report in reports]
        site = [sum(cost.cpu_us_per_token or 0 for cost in report.processes.values()) for report in reports]
        return cls((statistics.median(runner), min(runner), max(runner)), statistics.median(site))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=20, help="at once")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    begun, before, commit = time.monotonic(), conditions.OtherCpuTime.now(), conditions.describe_commit()
    last = baselines.pick_core(-1)
    with ExitStack() as stack:
        reports, versions = measure_transports(stack, last, given.streams, given.rounds)
    facts = [
        conditions.describe_machine() + ("" if last else ", not pinned to cores"),
        f"{versions}, {conditions.describe_packages('openai', 'anthropic', 'google-genai')}",
        f"{given.streams} streams of 500 tokens, 50 a second; median of {given.rounds} rounds (least–most)",
        f"{time.monotonic() - begun:.0f} s; {conditions.OtherCpuTime.now() - before}",
    ]
    title = f"### {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {commit}: two transports"
    text = "\n\n".join([title, "\n".join(f"- {fact}" for fact in facts), as_table(reports)])
    print(text)
    RESULTS.write_text(insert_entry(RESULTS.read_text(), text))


def measure_transports(
    stack: ExitStack, last: set[int] | None, streams: int, rounds: int
) -> tuple[dict[Pair, list[LoadReport]], str]:
    """Return the reports of every pair, and the versions of what ran."""
    allow_many_sockets()
    if first := baselines.pick_core(0):
        os.sched_setaffinity(0, first)
    provider = stack.enter_context(baselines.provider())
    root = provider.url.removesuffix("/v1")
    environment = {
        "ANTHROPIC_API_KEY": "k",
        "ANTHROPIC_BASE_URL": root,
        "GEMINI_API_KEY": "k",
        "GEMINI_BASE_URL": f"{root}/v1beta",
        "SDK_PROVIDERS": "",
    }
    site = stack.enter_context(Site(provider.url, [SCRIPT, WARM_UP], cores=last, environment=environment))
    people = tuple(site.create_members(streams, plan=UNLIMITED))
    names = {(key, script): add_model(site, key, script) for key in FORMATS.values() for script in (SCRIPT, WARM_UP)}
    reports: dict[Pair, list[LoadReport]] = {(name, transport): [] for name in FORMATS for transport in TRANSPORTS}
    for number_of_round in range(rounds):
        for transport in TRANSPORTS if number_of_round % 2 else reversed(TRANSPORTS):
            restart_runner(site, transport)
            for name, key in FORMATS.items():
                ask(site, people, WARM_UP, names[key, WARM_UP], streams)  # imports the SDK, opens connections
                report = ask(site, people, SCRIPT, names[key, SCRIPT], streams)
                assert report.ok, report
                reports[name, transport].append(report)
    return reports, conditions.describe_versions(site.environment["REDIS_URL"])


def add_model(site: Site, provider: str, script: str) -> str:
    """Offer the model on the site, and return the site's name of it; models of the environment are offered already."""
    if provider == COMPATIBLE:
        return script
    key = f"{provider}:{script}"[:100]
    named = {"key": key, "provider": provider, "provider_model": script, "label": script, "tier": "strong"}
    sizes = {"context_window": 32_768, "max_output": 16_384}
    site.offer({**named, **sizes, "input_price": 1_000_000, "output_price": 2_000_000})
    return key


def restart_runner(site: Site, transport: str) -> None:
    site.stop("runner0")
    site.environment["SDK_PROVIDERS"] = ",".join(FORMATS.values()) if transport == "sdk" else ""
    site.start("runner0")
    time.sleep(3)  # until the new runner has registered, and the old one's registration has expired
    site.wait_until_ready()


def ask(site: Site, people: tuple[str, ...], script: str, name: str, streams: int) -> LoadReport:
    processes: dict[str, tuple[int, ...]] = {part: (site.pid(part),) for part in PARTS}
    url = f"http://127.0.0.1:{site.port()}"
    load = Load("socket", url, script, streams, 1, people, processes, requested_model=name, ramp_seconds=1)
    report = measure_load(load)
    print(
        f"  {name}: {format_number(report.processes['runner0'].cpu_us_per_token)} µs a token in the runner", flush=True
    )
    return report


def as_table(reports: dict[Pair, list[LoadReport]]) -> str:
    """Return a table with a row for each format: the runner's CPU a token by both transports, their ratio, and the
    site's CPU."""
    rows = []
    for name in FORMATS:
        fast, sdk = (TokenCost.of(reports[name, transport]) for transport in TRANSPORTS)
        times = f"{sdk.runner[0] / fast.runner[0]:.1f} ×"
        rows.append(
            (name, _spread(fast), _spread(sdk), times, f"{format_number(fast.site)} / {format_number(sdk.site)}")
        )
    head = ("wire format", "runner by `fast`, µs a token", "by `sdk`", "ratio", "web + runner + Valkey, `fast` / `sdk`")
    return table(head, rows)


def _spread(cost: TokenCost) -> str:
    median, least, most = cost.runner
    return f"{format_number(median)} ({format_number(least)}–{format_number(most)})"


if __name__ == "__main__":
    main()
