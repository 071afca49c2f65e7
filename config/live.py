"""The operators' page of what happens at the moment: the figures of docs/metrics.md that a person looks at, from Redis
and the databases, so that it needs no Prometheus."""

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy
from redis.exceptions import RedisError

from billing.admin.tables import show_credits
from billing.models import UsageRecord
from chat.llm.health.counters import Tally
from chat.llm.health.error_counts import read_error_counts
from config.site_figures import SiteFigures, read_site
from core.http import is_fragment
from core.watching import Announcement, list_processes

PERMISSIONS = ("chat.view_languagemodel", "billing.view_usagerecord")  # as config/admin.py leads here
RECENT = dt.timedelta(minutes=15)
"""As long as the counters of attempts are recent (chat/llm/health/counters.py)."""

PARTS: dict[str, Promise] = {
    "database": _("Database"),
    "history": _("History"),
    "redis": _("Redis"),
    "runner": _("Runner"),
    "delivery": _("Text to readers"),
}
ERRANDS: dict[str, Promise] = {
    "webhooks": _("gateways' notifications"),
    "gateway_tasks": _("tasks at gateways"),
    "letters": _("mails about money"),
}
OUTCOMES: dict[str, Promise] = {
    "completed": pgettext_lazy("turns", "completed"),
    "stopped": pgettext_lazy("turns", "stopped"),
    "interrupted": pgettext_lazy("turns", "interrupted"),
    "failed": pgettext_lazy("turns", "failed"),
}


@dataclass(slots=True)
class ModelRow:
    """What a model did lately, and whether it is skipped."""

    key: str
    tally: Tally = field(default_factory=Tally)
    is_skipped: bool = False
    answers: int = 0
    tokens: int = 0
    cost: str = ""


def live(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """Show the figures; to htmx, the part of the page that changes."""
    if not request.user.has_perms(PERMISSIONS):
        raise PermissionDenied
    figures = read_site()
    try:
        processes = list_processes()
    except RedisError:
        processes = []
    page = {
        "now": list(_list_now(figures, processes)),
        "parts": [
            (name, figures.get("part_ready", part), figures.get("part_seconds", part)) for part, name in PARTS.items()
        ],
        "models": _list_models(),
        "errands": [
            (name, figures.get("errands_waiting", kind), figures.get("errands_lag_seconds", kind))
            for kind, name in ERRANDS.items()
        ],
        "processes": [_show_process(one) for one in processes],
        "is_still": "still" in request.GET,
        "at": timezone.now(),
    }
    if is_fragment(request):
        return render(request, "admin/_live.html", page)
    return render(request, "admin/live.html", {**site.each_context(request), "title": _("What happens now"), **page})


def _list_now(figures: SiteFigures, processes: list[Announcement]) -> list[tuple[Promise, Any, str, bool]]:
    """Return names, values, units, and whether somebody should look at it."""
    unbalanced = sum(value for _kind, value in figures.items("ledger_unbalanced"))
    proved_at = figures.get("ledger_proved_timestamp_seconds")
    runners, oldest = figures.get("runners_alive"), figures.get("reservations_oldest_seconds")
    wait = figures.get("turns_queued_oldest_seconds")
    return [
        (_("Answers being written"), sum(one.turns for one in processes), "", False),
        (_("Questions waiting"), figures.get("turns_queued"), "", False),
        (_("Longest wait"), wait, "s", (wait or 0) > 30),
        (_("Runners"), runners, "", runners == 0),
        (_("Tasks waiting"), figures.get("celery_queue"), "", (figures.get("celery_queue") or 0) > 100),
        (_("Open reservations"), figures.get("reservations_open"), "", False),
        (_("The oldest of them"), oldest, "s", (oldest or 0) > 3600),
        (_("Rows that do not add up"), unbalanced if proved_at else None, "", unbalanced > 0),
    ]


def _list_models() -> list[ModelRow]:
    """Return the models that did something in the last quarter of an hour, or are skipped, the busiest first."""
    rows: dict[str, ModelRow] = {}
    counted, _probes = read_error_counts() or ([], {})
    for one in counted:
        is_skipped = any(opened.seconds_left > 0 for _digest, opened in one.breakers)
        if one.recent.ok or one.recent.errors or is_skipped:
            rows[one.model.key] = ModelRow(one.model.key, one.recent, is_skipped)
    used = UsageRecord.objects.filter(recorded_at__gte=timezone.now() - RECENT).order_by().values("label")
    for row in used.annotate(
        answers=Count("pk"), read=Sum("input_tokens"), written=Sum("output_tokens"), cost=Sum("cost_micros")
    ):
        model = rows.setdefault(row["label"], ModelRow(row["label"]))
        model.answers, model.tokens, model.cost = (
            row["answers"],
            row["read"] + row["written"],
            show_credits(row["cost"]),
        )
    return sorted(rows.values(), key=lambda row: (-row.answers, row.key))


def _show_process(one: Announcement) -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": one.kind,
        "since": dt.datetime.fromtimestamp(one.began_at, dt.UTC),
        "turns": one.turns if one.kind == "runner" else None,
        "outcomes": [(OUTCOMES.get(outcome, outcome), count) for outcome, count in sorted(one.outcomes.items())],
        "lag_ms": None if one.lag_seconds is None else one.lag_seconds * 1000,
        "is_lag_longer": one.is_lag_longer,
        "pools": sorted(one.pools.items()),
        "megabytes": one.megabytes,
    }
