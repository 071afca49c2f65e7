"""What a line of the log says, and what it never does."""

import json
import logging
from smtplib import SMTPRecipientsRefused
from typing import Any
from uuid import uuid4

import pytest
import structlog
from django.db import DatabaseError, DataError, connection
from django.test import Client, RequestFactory
from django.urls import resolve
from pymongo.errors import DuplicateKeyError

from accounts.models import User
from chat.turns.queue import request_of
from config.celery import app, carry_ids
from config.logging import JsonFormatter, TextFormatter

SECRET = "planted-7f3a@example.com"


@pytest.fixture(autouse=True)
def unbound() -> None:
    structlog.contextvars.clear_contextvars()


def line_of(
    message: str, *args: Any, name: str = "chat.turns", error: BaseException | None = None, **extra: Any
) -> Any:
    record = logging.getLogger(name).makeRecord(
        name,
        logging.ERROR,
        "",
        0,
        message,
        args,
        (type(error), error, error.__traceback__) if error else None,
        extra=extra,
    )
    return json.loads(JsonFormatter().format(record))


def test_a_line_says_when_what_and_about_what():
    turn_id = uuid4()
    with structlog.contextvars.bound_contextvars(request_id="r-12345678", user_id=7):
        line = line_of("Turn %s", "ended", turn_id=turn_id)
    assert line.pop("at").endswith("+00:00")
    assert line == {
        "level": "ERROR",
        "logger": "chat.turns",
        "message": "Turn ended",
        "request_id": "r-12345678",
        "user_id": 7,
        "turn_id": str(turn_id),
    }


def test_what_is_passed_counts_more_than_what_was_bound():
    with structlog.contextvars.bound_contextvars(turn_id="bound"):
        assert line_of("Turn ended", turn_id="passed")["turn_id"] == "passed"


@pytest.mark.stores
@pytest.mark.django_db(transaction=True)
def test_an_error_of_the_database_names_its_rule_and_no_value():
    User.objects.create(email=SECRET)
    with pytest.raises(DatabaseError) as duplicate:
        User.objects.create(email=SECRET)
    with pytest.raises(Exception) as wrong:
        User.objects.filter(pk=SECRET).exists()
    for error in (duplicate.value, wrong.value):
        line = line_of("Broke", error=error)
        assert SECRET not in json.dumps(line)
        assert type(error).__name__ in line["traceback"]
        assert "test_logging.py" in line["traceback"]
    if connection.vendor != "mongodb":
        assert "unique" in line_of("Broke", error=duplicate.value)["traceback"].lower()


def test_a_field_may_be_called_as_structlog_calls_the_message():
    line = line_of("Account event", name="accounts.events", event="log_in_failed")
    assert (line["message"], line["event"]) == ("Account event", "log_in_failed")


def test_an_exception_is_told_with_all_it_came_from_and_without_what_it_quotes():
    try:
        try:
            int(SECRET)
        except ValueError as cause:
            raise ExceptionGroup("two", [KeyError(SECRET), OSError(28, "No space left on device")]) from cause
    except ExceptionGroup as group:
        line = line_of("Broke", error=group)
    assert SECRET not in json.dumps(line)
    for told in ("ValueError: …", "direct cause", "ExceptionGroup: …", "KeyError: …", "No space left on device"):
        assert told in line["traceback"]


def test_an_exception_is_told_with_what_was_handled_when_it_came():
    error = KeyError(SECRET)
    error.__context__ = OSError(28, "No space left on device")
    assert "No space left on device" in line_of("Broke", error=error)["traceback"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DuplicateKeyError(f'E11000 collection: t.user index: email_1 dup key: {{ email: "{SECRET}" }}'), "email_1"),
        (DataError(f'invalid input syntax for type bigint: "{SECRET}"'), "DataError: …"),
        (SMTPRecipientsRefused({SECRET: (550, b"no such user")}), "SMTPRecipientsRefused: …"),  # an OSError
    ],
)
def test_an_error_that_quotes_a_value_is_told_without_it(error: Exception, told: str):
    line = line_of("Broke", error=error)
    assert SECRET not in json.dumps(line)
    assert told in line["traceback"]


def test_a_library_gives_its_first_line_and_no_fields_of_its_own():
    line = line_of(f"never retrieved\nfuture: {SECRET}", name="asyncio", data={"args": SECRET}, status_code=500)
    assert (line["message"], line["status_code"]) == ("never retrieved", 500)
    assert SECRET not in json.dumps(line)


def test_no_level_of_the_site_has_a_library_tell_what_is_in_its_commands():
    """LOG_LEVEL=DEBUG: pymongo would write each document it sends and reads."""
    before = logging.root.level
    logging.root.setLevel(logging.DEBUG)
    try:
        assert not logging.getLogger("pymongo.command").isEnabledFor(logging.DEBUG)
    finally:
        logging.root.setLevel(before)


def test_celery_tells_neither_a_mail_nor_whom_it_refused():
    """As celery.app.trace logs a task that failed."""
    context = {
        "id": "1",
        "name": "core.mail.send_mail",
        "description": "raised unexpected",
        "exc": f"Refused({SECRET!r})",
    }
    context |= {
        "args": "[]",
        "kwargs": f"{{'to': [{SECRET!r}]}}",
        "hostname": "w",
        "internal": False,
        "traceback": SECRET,
    }
    text = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
    line = line_of(text, context, name="celery.app.trace", data=context)
    assert line["message"] == "Task core.mail.send_mail[1] raised unexpected: …"
    assert SECRET not in json.dumps(line)


def test_an_address_that_is_a_key_is_told_as_its_pattern():
    request = RequestFactory().get(f"/share/{SECRET}/")
    request.resolver_match = resolve("/share/abc/")
    line = line_of("%s: %s", "Internal Server Error", request.path, name="django.request", request=request)
    assert line["message"] == "Internal Server Error: /share/<str:token>/"


def test_the_text_for_developers_has_the_whole_exception():
    record = logging.getLogger("chat").makeRecord("chat", 20, "", 0, "Broke", (), None, extra={"turn_id": "7"})
    shown = TextFormatter().format(record)
    assert shown.endswith("INFO    chat: Broke turn_id=7")
    record.exc_info = (ValueError, ValueError(SECRET), None)
    assert SECRET in TextFormatter().format(record)


def test_a_queue_entry_has_the_id_of_its_request_and_only_if_it_is_one():
    assert request_of({b"request": b"r-12345678"}) == "r-12345678"
    for foreign in ({}, {b"request": b""}, {b"request": b"\xff\xfe"}, {b"request": b'"} planted {"'}):
        assert request_of(foreign) == ""


def test_a_task_is_sent_and_run_with_the_ids_of_who_sent_it(monkeypatch: pytest.MonkeyPatch):
    seen: list[dict[str, Any]] = []

    @app.task(name="tests.see_ids")
    def see_ids() -> None:
        seen.append(structlog.contextvars.get_contextvars())

    headers: dict[str, Any] = {}
    with structlog.contextvars.bound_contextvars(request_id="r-12345678", user_id=7, path="/x"):
        carry_ids(headers=headers)
    assert headers == {"log_ids": {"request_id": "r-12345678", "user_id": "7"}}
    see_ids.apply(headers=headers)
    assert {name: seen[0][name] for name in ("request_id", "user_id", "task")} == {
        "request_id": "r-12345678",
        "user_id": "7",
        "task": "tests.see_ids",
    }
    assert structlog.contextvars.get_contextvars() == {}


def test_a_request_forgets_who_sent_the_one_before():
    structlog.contextvars.bind_contextvars(user_id=7)
    Client().get("/healthz")
    assert "user_id" not in structlog.contextvars.get_contextvars()
