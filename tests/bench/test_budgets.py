"""The figures that have a budget."""

from dataclasses import replace

from bench import budgets
from bench.capacity import is_held
from bench.load import LoadReport, Percentiles, ProcessCost, Refusals

NONE = Percentiles(None, None, None, None)


def report(
    *, streams: int = 200, tokens: int = 40_000, us: float = 20, ms_a_turn: float = 4, mb: float = 100
) -> LoadReport:
    """A run of one round in which each of three processes used as much."""
    cost = ProcessCost(1, us, ms_a_turn, mb, mb)
    same = Percentiles(10, 20, 30, 40)
    return LoadReport(
        target="socket",
        model="fake-200t-20ms-ns",
        streams=streams,
        rounds=1,
        wall_seconds=5,
        completed=streams,
        errors={},
        tokens=tokens,
        missing=0,
        resent_characters=0,
        restarts=0,
        first_token_added_ms=same,
        token_added_ms=same,
        stretch=Percentiles(1, 1, 1.05, 1.05),
        refusals=Refusals(0, 0, NONE),
        frames_per_token=0.5,
        frames_per_second=25,
        bytes_beyond_text_per_frame=90,
        client_us_per_token=20,
        processes=dict.fromkeys(budgets.PARTS.values(), cost),
    )


def floor(name: str, us: float) -> LoadReport:
    return replace(report(), processes={name: ProcessCost(1, us, 4, 100, 100)})


def test_a_token_s_cost_is_that_of_all_and_told_in_parts() -> None:
    found = budgets.cpu_of_a_token(report(us=20), floor("provider", 30), floor("nginx", 15))
    assert (found.measured, found.verdict) == (60, "met")
    assert found.detail == "web 20, runner 20, Valkey 20; 2.0 × the provider's 30; 4.0 × nginx's 15"


def test_without_nginx_there_is_one_ratio_less() -> None:
    assert "nginx" not in budgets.cpu_of_a_token(report(), floor("provider", 30), None).detail


def test_one_more_token_leaves_out_what_a_turn_costs() -> None:
    found = budgets.cpu_of_one_more_token(report(ms_a_turn=4), report(tokens=200_000, ms_a_turn=12))
    assert found.measured == 3 * (12 - 4) * 1e3 / 800


def test_memory_is_what_more_streams_add() -> None:
    a_stream, web, _ = budgets.memory(report(streams=50, mb=100), report(mb=115), report(mb=220), 1_000)
    assert a_stream.measured is not None
    assert round(a_stream.measured, 6) == 0.3
    assert web.verdict == "**missed by 10%**"


def test_a_refusal_that_does_not_say_when_to_come_back_is_told() -> None:
    crowd = replace(report(streams=2_000), refusals=Refusals(1_500, 2, Percentiles(100, 200, 400, 500)))
    found = budgets.refusals(crowd)
    assert (found.figure, found.measured, found.verdict) == ("2,000 turns at once, refusal, p99 ms", 400, "met")
    assert found.detail == "2,000 completed, 1,500 refused, max 500, 2 without retry_after"


def test_where_nobody_is_refused_the_wait_is_for_the_first_token() -> None:
    found = budgets.refusals(replace(report(), first_token_added_ms=Percentiles(1, 2, 29_000, 30_000)))
    assert (found.measured, found.verdict) == (29_000, "**missed by 2,800%**")


def test_a_crowd_is_judged_by_its_slowest() -> None:
    token, first = budgets.crowd(replace(report(streams=500), token_added_ms=Percentiles(1, 2, 180, 200)))
    assert (token.verdict, token.detail) == ("**missed by 20%**", "500 completed of 500")
    assert first.verdict == "met"


def test_slow_readers_are_a_ratio_of_others_delays() -> None:
    slowed = replace(report(), token_added_ms=Percentiles(10, 20, 45, 50))
    found = budgets.slow_readers(report(), slowed, report(), 0.04)
    assert (found.measured, found.verdict) == (1.5, "**missed by 25%**")


def test_held_means_nothing_late_nothing_lost() -> None:
    good = report()
    assert is_held(good)
    late = Percentiles(10, 20, 2_000, 2_000)
    for bad in (
        replace(good, errors={"timeout": 1}),
        replace(good, missing=1),
        replace(good, token_added_ms=late),
        replace(good, first_token_added_ms=late),
        replace(good, stretch=late),
        replace(good, token_added_ms=NONE),
    ):
        assert not is_held(bad)
