"""Conversations by the day they were last used, where the reader lives."""

import datetime as dt
from zoneinfo import ZoneInfo

from django.utils import timezone, translation

from history.models import Conversation
from history.timeline import continue_groups, group_by_age

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)


def grouped(monkeypatch, *ages: dt.timedelta) -> list[tuple[str, int]]:
    monkeypatch.setattr(timezone, "now", lambda: NOW)
    rows = [Conversation(title="x", updated_at=NOW - age) for age in ages]
    return [(str(label), len(rows)) for label, rows in group_by_age(rows)]


def test_ages_are_counted_in_days(monkeypatch):
    days = [dt.timedelta(days=days) for days in (0, 0, 1, 2, 7, 8, 30, 31, 400)]
    with timezone.override("UTC"):
        found = [count for _label, count in grouped(monkeypatch, *days)]
    assert found == [2, 1, 2, 2, 2]


def test_today_is_there_even_when_nothing_was_asked(monkeypatch):
    assert grouped(monkeypatch)[0][1] == 0
    assert [count for _, count in grouped(monkeypatch, dt.timedelta(days=3))] == [0, 1]


def test_a_day_begins_at_the_readers_midnight(monkeypatch):
    ten_hours = dt.timedelta(hours=10)  # two in the morning UTC, nine the evening before in Bogotá
    with timezone.override("UTC"):
        assert [count for _, count in grouped(monkeypatch, ten_hours)] == [1]
    with timezone.override(ZoneInfo("America/Bogota")):
        assert [count for _, count in grouped(monkeypatch, ten_hours)] == [0, 1]


def test_what_follows_goes_on_with_the_age_that_was_last(monkeypatch):
    monkeypatch.setattr(timezone, "now", lambda: NOW)
    rows = [Conversation(title="x", updated_at=NOW - dt.timedelta(days=days)) for days in (3, 5, 12)]
    with timezone.override("UTC"), translation.override("en"):
        for days, labels in ((2, ["None", "Last 30 days"]), (1, ["Last 7 days", "Last 30 days"])):
            found = continue_groups(rows, NOW - dt.timedelta(days=days))
            assert [str(label) for label, _rows in found] == labels
            assert [len(rows) for _label, rows in found] == [2, 1]
