"""What Sentry and OpenTelemetry get. That it arrives is in tests/processes/test_seen.py."""

import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings

from config import reporting
from config.reporting import event_without_values, ids_of, is_traced, start_reporting

SECRET = "planted-7f3a@example.com"


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    settings = SimpleNamespace(SENTRY_DSN="http://public@127.0.0.1/1", OTEL_EXPORTER_OTLP_ENDPOINT="")
    monkeypatch.setattr(reporting, "settings", settings)
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    with pytest.raises(ImproperlyConfigured, match="sentry_sdk is missing.*requirements-watching.txt"):
        start_reporting()


def test_an_event_is_made_anew_of_what_is_known_to_be_no_secret():
    try:
        int(SECRET)
    except ValueError as error:
        raised = error
    frame = {"filename": "a.py", "function": "f", "lineno": 3, "vars": {"text": SECRET}}
    event: dict[str, Any] = {
        "event_id": "1",
        "level": "error",
        "request": {"cookies": SECRET, "data": SECRET, "url": f"/share/{SECRET}/"},
        "user": {"email": SECRET},
        "breadcrumbs": {"values": [{"message": SECRET}]},
        "extra": {"sys.argv": [SECRET]},
        "exception": {"values": [{"type": "ValueError", "value": str(raised), "stacktrace": {"frames": [frame]}}]},
    }
    record = logging.getLogger("chat").makeRecord("chat", 40, "", 0, "Broke", (), None, extra={"user_id": 7, "line": 3})
    told = event_without_values(event, {"log_record": record, "exc_info": (ValueError, raised, None)})
    assert SECRET not in repr(told)
    assert told["exception"]["values"][0] == {
        "type": "ValueError",
        "module": None,
        "value": "…",
        "stacktrace": {"frames": [{"filename": "a.py", "function": "f", "lineno": 3}]},
    }
    assert (told["message"], told["user"], told["extra"]) == ("Broke", {"id": "7"}, {"line": 3})


def test_an_event_without_a_line_of_the_log_has_its_class_alone():
    event = {"exception": {"values": [{"type": "KeyError", "value": repr(SECRET)}]}}
    told = event_without_values(event, {"exc_info": (KeyError, KeyError(SECRET), None)})
    assert told["message"] == "Uncaught"
    assert SECRET not in repr(told)


def test_the_id_that_a_person_is_shown_finds_the_trace():
    request_id = "00f0" * 8
    trace_id, span_id = ids_of(request_id)
    assert f"{trace_id:032x}" == request_id
    assert 0 < span_id < 2**64
    assert ids_of("a-proxy.gave_this-1") != ids_of("a-proxy.gave_this-2")


def test_no_client_chooses_whether_it_is_traced(settings: Settings):
    """Whose id ends in zeros would be among any share of them, if the trace's id said so."""
    settings.OTEL_TRACES_PER_THOUSAND = 100
    chosen = [f"{number:016x}{'0' * 16}" for number in range(10_000)]
    traced = [one for one in chosen if is_traced(one)]
    assert 800 < len(traced) < 1_200
    assert [one for one in chosen if is_traced(one)] == traced, "in every process the same"
    settings.SECRET_KEY = "another"
    assert [one for one in chosen if is_traced(one)] != traced
    for share, count in ((0, 0), (1000, len(chosen))):
        settings.OTEL_TRACES_PER_THOUSAND = share
        assert sum(map(is_traced, chosen)) == count
