"""Conversations by the day they were last used, where the reader lives."""

import datetime as dt
from zoneinfo import ZoneInfo

from django.utils import timezone

from history.models import Conversation
from history.timeline import group_by_age

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
