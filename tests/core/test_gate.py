"""The gate in front of a store that does not answer."""

from time import monotonic

import pytest
from django.db import OperationalError
from pymongo.errors import WaitQueueTimeoutError

from core import gate
from core.gate import Gate
from core.mongodb.base import run_guarded


def test_a_store_that_answers_refuses_nobody():
    found = Gate()
    assert not any(found.refuses() for _ in range(3))


def test_while_a_store_is_away_one_caller_a_second_tries_it(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr(gate, "monotonic", lambda: now)
    found = Gate()
    found.fail(now - gate.SILENT_SECONDS)
    assert found.refuses()
    now += gate.RETRY_SECONDS
    assert [found.refuses() for _ in range(3)] == [False, True, True]
    now += gate.RETRY_SECONDS
    assert [found.refuses() for _ in range(3)] == [False, True, True]
    found.open()
    assert not any(found.refuses() for _ in range(3))


def test_an_error_that_came_at_once_refuses_nobody():
    found = Gate()
    found.fail(monotonic())
    assert not any(found.refuses() for _ in range(3))


def test_a_mongodb_whose_connections_are_all_in_use_is_not_away(monkeypatch: pytest.MonkeyPatch):
    def ask() -> None:
        raise WaitQueueTimeoutError("every connection is in use")

    monkeypatch.setattr(gate, "SILENT_SECONDS", 0)
    found = Gate()
    with pytest.raises(OperationalError):
        run_guarded(found, ask)
    assert not found.refuses()
