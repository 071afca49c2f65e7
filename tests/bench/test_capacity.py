"""The search for the largest number that holds."""

import pytest

from bench.capacity import find_largest, ramp_seconds


@pytest.mark.parametrize("limit", [3, 100, 199, 200, 301, 399, 400, 1_599])
def test_the_number_found_holds_and_one_a_tenth_larger_does_not(limit: int) -> None:
    tried: list[int] = []

    def holds(number: int) -> bool:
        tried.append(number)
        return number <= limit

    found = find_largest(holds, first=200, cap=1_600)
    assert found <= limit <= max(found * 1.1, found + 2) + 1
    assert len(tried) == len(set(tried)) <= 10


def test_the_search_ends_at_its_cap() -> None:
    assert find_largest(lambda _: True, first=200, cap=1_500) == 1_500


def test_where_nothing_holds_there_is_nothing_to_find() -> None:
    assert find_largest(lambda _: False, first=200, cap=1_600) == 0


def test_streams_start_over_one_to_three_seconds() -> None:
    assert [ramp_seconds(streams) for streams in (1, 200, 500, 2_000)] == [1, 1, 2.5, 3]
