"""The table of the two transports, out of the reports it is made of."""

from bench.load import LoadReport, Percentiles, Refusals
from bench.load import ProcessCost as Used
from bench.transports import FORMATS, TRANSPORTS, TokenCost, as_table

NONE = Percentiles(None, None, None, None)


def report(runner: float, web: float = 20) -> LoadReport:
    costs = {"runner0": runner, "web0": web, "valkey": 5}
    return LoadReport(
        target="socket",
        model="fake-500t-20ms-ns",
        streams=1,
        rounds=1,
        wall_seconds=1,
        completed=1,
        errors={},
        tokens=500,
        missing=0,
        resent_characters=0,
        restarts=0,
        first_token_added_ms=NONE,
        token_added_ms=NONE,
        stretch=NONE,
        refusals=Refusals(0, 0, NONE),
        frames_per_token=None,
        frames_per_second=None,
        bytes_beyond_text_per_frame=None,
        client_us_per_token=None,
        processes={name: Used(0.1, us, 1, 1, 1) for name, us in costs.items()},
    )


def test_a_cost_is_the_median_and_its_spread():
    found = TokenCost.of([report(40), report(44, web=30), report(90)])
    assert (found.runner, found.site) == ((44, 40, 90), 79)


def test_the_table_has_a_line_for_each_format():
    reports = {
        (name, transport): [report(40 if transport == "fast" else 200)] for name in FORMATS for transport in TRANSPORTS
    }
    lines = as_table(reports).splitlines()
    assert len(lines) == 2 + 3
    assert lines[2] == "| OpenAI | 40 (40–40) | 200 (200–200) | 5.0 × | 65 / 225 |"
