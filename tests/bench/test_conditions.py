"""What a run's figures hold for."""

import os

from bench.conditions import OtherCpuTime, describe_machine


def test_the_machine_is_told_in_a_line() -> None:
    assert f"{os.cpu_count()} cores" in describe_machine()
    assert "\n" not in describe_machine()


def test_what_was_spent_before_does_not_count() -> None:
    assert str(OtherCpuTime(5, 30) - OtherCpuTime(2.5, 29)) == "CPU stolen 2.5 s, foreign 1.0 s"


def test_a_tick_too_many_of_our_own_is_not_told() -> None:
    assert str(OtherCpuTime(0, 29.9) - OtherCpuTime(0, 30)) == "CPU stolen 0.0 s, foreign 0.0 s"
