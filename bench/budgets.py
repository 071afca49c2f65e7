"""The figures that have a budget, computed from reports."""

from collections.abc import Sequence

from bench.load import LoadReport, Percentiles
from bench.results import BudgetedFigure, format_number, join_numbers

PARTS = {"web": "web0", "runner": "runner0", "Valkey": "valkey"}


def cpu_us(report: LoadReport) -> float:
    """Return the CPU time for each token of all measured processes together."""
    return sum(cost.cpu_us_per_token or 0 for cost in report.processes.values())


def cpu_of_a_token(site: LoadReport, direct: LoadReport, nginx: LoadReport | None) -> BudgetedFigure:
    cost = cpu_us(site)
    detail = [_by_part({name: found.cpu_us_per_token or 0 for name, found in site.processes.items()})]
    for name, report in {"the provider": direct, "nginx": nginx}.items():
        if report and (floor := cpu_us(report)):
            detail.append(f"{cost / floor:.1f} × {name}'s {format_number(floor)}")
    return BudgetedFigure(f"CPU a relayed token, {site.streams} streams, µs", 60, cost, "; ".join(detail))


def cpu_of_one_more_token(short: LoadReport, long: LoadReport) -> BudgetedFigure:
    """The cost of one more token in a turn, without opening and closing the turn."""
    turns = short.streams * short.rounds
    tokens = long.tokens / (long.streams * long.rounds) - short.tokens / turns
    more = {
        name: (cost.cpu_ms_per_turn - short.processes[name].cpu_ms_per_turn) * 1e3 / tokens
        for name, cost in long.processes.items()
    }
    return BudgetedFigure(
        f"CPU of one more token, {long.streams} long turns, µs", None, sum(more.values()), _by_part(more)
    )


def first_token(site: LoadReport, direct: LoadReport) -> BudgetedFigure:
    detail = (
        f"p99 {format_number(site.first_token_added_ms.p99)}; direct {format_number(direct.first_token_added_ms.p50)}"
    )
    return BudgetedFigure("added to the first token, one stream, p50 ms", 15, site.first_token_added_ms.p50, detail)


def cpu_of_a_turn(site: LoadReport) -> BudgetedFigure:
    costs = {name: cost.cpu_ms_per_turn for name, cost in site.processes.items()}
    return BudgetedFigure("CPU to open and close a turn, ms", 8, sum(costs.values()), _by_part(costs))


def memory(few: LoadReport, many: LoadReport, last: LoadReport, turns: int) -> list[BudgetedFigure]:
    """The memory for each stream, by a run of few and one of many; and of the processes after so many turns."""
    more = many.streams - few.streams
    grown = {
        name: max(0.0, cost.rss_peak_mb - few.processes[name].rss_peak_mb) / more
        for name, cost in many.processes.items()
    }
    peak = {name: last.processes[name].rss_peak_mb for name in PARTS.values()}
    return [
        BudgetedFigure(
            "memory a stream, MB", 0.05, sum(grown.values()), f"{_by_part(grown)}; {few.streams} to {many.streams}"
        ),
        BudgetedFigure(f"memory of the web process after {turns:,} turns, MB", 200, peak["web0"]),
        BudgetedFigure("memory of the runner, MB", 200, peak["runner0"], f"Valkey {format_number(peak['valkey'])}"),
    ]


def traffic(steady: LoadReport, everything: Sequence[LoadReport]) -> list[BudgetedFigure]:
    resent = sum(report.resent_characters for report in everything)
    tokens = sum(report.tokens for report in everything)
    return [
        BudgetedFigure(
            "bytes beyond its text, a message", 100, steady.bytes_beyond_text_per_frame, "with the frame's head"
        ),
        BudgetedFigure(
            "messages a second, a turn", 30, steady.frames_per_second, f"{steady.streams} streams, 50 tokens/s"
        ),
        BudgetedFigure("characters sent twice", 0, resent, f"in {tokens:,} tokens of all runs"),
    ]


def chat_page(times_ms: Percentiles, turns: int) -> BudgetedFigure:
    return BudgetedFigure(f"chat page of {turns} turns, p95 ms", 50, times_ms.p95, f"p50 {format_number(times_ms.p50)}")


def slow_readers(
    alone: LoadReport, beside_slow: LoadReport, beside_fast: LoadReport, read_share: float
) -> BudgetedFigure:
    """The p99 of fast readers beside slow ones; the detail has that beside as many fast ones: what load alone does."""
    without, with_slow, with_fast = (r.token_added_ms.p99 for r in (alone, beside_slow, beside_fast))
    ratio = with_slow / without if with_slow and without else None
    detail = (
        f"p99 ms alone / beside slow / beside as many that keep up: {join_numbers(without, with_slow, with_fast)}; "
        f"slow ones got {read_share:.0%} of their text; "
        f"web {format_number(beside_slow.processes['web0'].rss_peak_mb)} MB"
    )
    return BudgetedFigure("p99 of fast readers beside slow ones, ratio", 1.2, ratio, detail)


def crowd(report: LoadReport) -> list[BudgetedFigure]:
    """More streams than one core serves with ease."""
    detail = f"{report.completed:,} completed of {report.streams * report.rounds:,}"
    return [
        BudgetedFigure(f"{report.streams} streams, p99 of a token, ms", 150, report.token_added_ms.p99, detail),
        BudgetedFigure(f"{report.streams} streams, p99 of the first token, ms", 2_000, report.first_token_added_ms.p99),
    ]


def refusals(report: LoadReport) -> BudgetedFigure:
    """How fast refusals are; if nothing is refused, how fast first tokens are."""
    refused = report.refusals
    times_ms = refused.after_ms if refused.count else report.first_token_added_ms
    detail = f"{report.completed:,} completed, {refused.count:,} refused, max {format_number(times_ms.max)}"
    if refused.without_retry_after:
        detail += f", {refused.without_retry_after:,} without retry_after"
    figure = "refusal" if refused.count else "first token, none is refused"
    return BudgetedFigure(f"{report.streams:,} turns at once, {figure}, p99 ms", 1_000, times_ms.p99, detail)


def _by_part(costs: dict[str, float]) -> str:
    return ", ".join(f"{label} {format_number(costs[name])}" for label, name in PARTS.items())
