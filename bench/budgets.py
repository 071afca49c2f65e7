"""The figures that have a budget, out of the reports they come from."""

from collections.abc import Sequence

from bench.load import Percentiles, Report
from bench.results import Budget, number, pair

PARTS = {"web": "web0", "runner": "runner0", "Valkey": "valkey"}


def cpu_us(report: Report) -> float:
    """Return the CPU of all measured processes for each token."""
    return sum(cost.cpu_us_per_token or 0 for cost in report.processes.values())


def a_token(site: Report, direct: Report, nginx: Report | None) -> Budget:
    cost = cpu_us(site)
    detail = [_parts({name: found.cpu_us_per_token or 0 for name, found in site.processes.items()})]
    for name, report in {"the provider": direct, "nginx": nginx}.items():
        if report and (floor := cpu_us(report)):
            detail.append(f"{cost / floor:.1f} × {name}'s {number(floor)}")
    return Budget(f"CPU a relayed token, {site.streams} streams, µs", 60, cost, "; ".join(detail))


def a_token_more(short: Report, long: Report) -> Budget:
    """What one more token of a turn costs: opening and closing the turn is not in it."""
    turns = short.streams * short.rounds
    tokens = long.tokens / (long.streams * long.rounds) - short.tokens / turns
    more = {
        name: (cost.cpu_ms_per_turn - short.processes[name].cpu_ms_per_turn) * 1e3 / tokens
        for name, cost in long.processes.items()
    }
    return Budget(f"CPU of one more token, {long.streams} long turns, µs", None, sum(more.values()), _parts(more))


def first_token(site: Report, direct: Report) -> Budget:
    detail = f"p99 {number(site.first_token_added_ms.p99)}; direct {number(direct.first_token_added_ms.p50)}"
    return Budget("added to the first token, one stream, p50 ms", 15, site.first_token_added_ms.p50, detail)


def a_turn(site: Report) -> Budget:
    costs = {name: cost.cpu_ms_per_turn for name, cost in site.processes.items()}
    return Budget("CPU to open and close a turn, ms", 8, sum(costs.values()), _parts(costs))


def memory(few: Report, many: Report, last: Report, turns: int) -> list[Budget]:
    """Between a run of few streams and one of many; and what the processes have grown to after so many turns."""
    more = many.streams - few.streams
    grown = {
        name: max(0.0, cost.rss_peak_mb - few.processes[name].rss_peak_mb) / more
        for name, cost in many.processes.items()
    }
    peak = {name: last.processes[name].rss_peak_mb for name in PARTS.values()}
    return [
        Budget("memory a stream, MB", 0.05, sum(grown.values()), f"{_parts(grown)}; {few.streams} to {many.streams}"),
        Budget(f"memory of the web process after {turns:,} turns, MB", 200, peak["web0"]),
        Budget("memory of the runner, MB", 200, peak["runner0"], f"Valkey {number(peak['valkey'])}"),
    ]


def wire(steady: Report, everything: Sequence[Report]) -> list[Budget]:
    resent = sum(report.resent_characters for report in everything)
    tokens = sum(report.tokens for report in everything)
    return [
        Budget("bytes beyond its text, a message", 100, steady.bytes_beyond_text_per_frame, "with the frame's head"),
        Budget("messages a second, a turn", 30, steady.frames_per_second, f"{steady.streams} streams, 50 tokens/s"),
        Budget("characters sent twice", 0, resent, f"in {tokens:,} tokens of all runs"),
    ]


def chat_page(taken_ms: Percentiles, turns: int) -> Budget:
    return Budget(f"chat page of {turns} turns, p95 ms", 50, taken_ms.p95, f"p50 {number(taken_ms.p50)}")


def slow_readers(alone: Report, beside_slow: Report, beside_fast: Report, read_share: float) -> Budget:
    """Others whose readers do not keep up, and others just as many whose readers do: the rest is the load itself."""
    without, with_slow, with_fast = (r.token_added_ms.p99 for r in (alone, beside_slow, beside_fast))
    ratio = with_slow / without if with_slow and without else None
    detail = (
        f"p99 ms alone / beside slow / beside as many that keep up: {pair(without, with_slow, with_fast)}; "
        f"slow ones got {read_share:.0%} of their text; web {number(beside_slow.processes['web0'].rss_peak_mb)} MB"
    )
    return Budget("p99 of fast readers beside slow ones, ratio", 1.2, ratio, detail)


def crowd(report: Report) -> list[Budget]:
    """More at once than one core holds with ease."""
    detail = f"{report.completed:,} completed of {report.streams * report.rounds:,}"
    return [
        Budget(f"{report.streams} streams, p99 of a token, ms", 150, report.token_added_ms.p99, detail),
        Budget(f"{report.streams} streams, p99 of the first token, ms", 2_000, report.first_token_added_ms.p99),
    ]


def refusals(report: Report) -> Budget:
    """Whoever is not served is told so at once, and when to come back. Where nobody is refused, the wait is that for
    the first token."""
    refused = report.refusals
    taken = refused.after_ms if refused.count else report.first_token_added_ms
    detail = f"{report.completed:,} completed, {refused.count:,} refused, max {number(taken.max)}"
    if refused.without_retry_after:
        detail += f", {refused.without_retry_after:,} without retry_after"
    figure = "refusal" if refused.count else "first token, none is refused"
    return Budget(f"{report.streams:,} turns at once, {figure}, p99 ms", 1_000, taken.p99, detail)


def _parts(costs: dict[str, float]) -> str:
    return ", ".join(f"{label} {number(costs[name])}" for label, name in PARTS.items())
