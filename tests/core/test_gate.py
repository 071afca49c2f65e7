"""The gate in front of a store that does not answer."""

import pytest

from core import gate
from core.gate import Gate


def test_a_store_that_answers_refuses_nobody():
    found = Gate()
    assert not any(found.refuses() for _ in range(3))


def test_while_a_store_is_away_one_caller_a_second_tries_it(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr(gate, "monotonic", lambda: now)
    found = Gate()
    found.close()
    assert found.refuses()
    now += gate.RETRY_SECONDS
    assert [found.refuses() for _ in range(3)] == [False, True, True]
    now += gate.RETRY_SECONDS
    assert [found.refuses() for _ in range(3)] == [False, True, True]
    found.open()
    assert not any(found.refuses() for _ in range(3))
