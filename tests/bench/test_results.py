"""Figures as text."""

import pytest

from bench.results import (
    MARKER,
    RESULTS,
    Bar,
    BudgetedFigure,
    bar_chart,
    format_number,
    insert_entry,
    join_numbers,
    table,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (0.04, "0.04"),
        (0.0123, "0.012"),
        (7.254, "7.25"),
        (8.0, "8"),
        (22.25, "22.2"),
        (1157, "1,157"),
    ],
)
def test_a_number_has_the_digits_that_mean_something(value: float | None, text: str) -> None:
    assert format_number(value) == text


def test_a_pair_stands_side_by_side() -> None:
    assert join_numbers(1.5, None) == "1.5 / –"


@pytest.mark.parametrize(
    ("budget", "verdict"),
    [
        (BudgetedFigure("", 60, 60), "met"),
        (BudgetedFigure("", 60, 75), "**missed by 25%**"),
        (BudgetedFigure("", 300, 300, at_least=True), "met"),
        (BudgetedFigure("", 300, 240, at_least=True), "**missed by 20%**"),
        (BudgetedFigure("", 0, 3), "**missed**"),
        (BudgetedFigure("", 60, None), "not measured"),
        (BudgetedFigure("", None, 3), ""),
    ],
)
def test_a_budget_is_met_or_missed_by_so_much(budget: BudgetedFigure, verdict: str) -> None:
    assert budget.verdict == verdict


def test_a_table_is_markdown() -> None:
    rows = [BudgetedFigure("streams held", 300, 350, "on one core", at_least=True).row]
    assert table(("figure", "budget", "measured", "", "of which"), rows).splitlines()[2] == (
        "| streams held | ≥ 300 | 350 | met | on one core |"
    )


def test_bars_are_as_long_as_their_share() -> None:
    _, title, first, second, _ = bar_chart(
        "title", [Bar("here", 10), Bar("there", 40, is_from_elsewhere=True)]
    ).splitlines()
    assert (title, first.count("█"), second.count("█")) == ("title", 12, 50)
    assert "here       10  ████████████▌" in first
    assert second.endswith("(measured elsewhere)")


def test_the_newest_entry_is_the_first_one() -> None:
    text = insert_entry(insert_entry(f"head\n\n{MARKER}\n", "### one\n"), "### two\n")
    assert text == f"head\n\n{MARKER}\n\n### two\n\n### one\n"


def test_without_a_place_there_is_no_entry() -> None:
    with pytest.raises(ValueError, match="No place"):
        insert_entry("head", "### one")


def test_the_file_of_results_has_a_place_below_the_profile() -> None:
    head, marker, _ = RESULTS.read_text().partition(MARKER)
    assert marker
    assert head.index("## Where the time goes") < head.index("## Runs")
