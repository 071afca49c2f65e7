"""The figures of the whole site, read from its stores by whichever process is asked: for Prometheus and for operators.

Any one process tells them all, so that adding up the answers of several would be wrong.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from django.db import DatabaseError
from django.db.models import Count, Min, Sum
from django.utils import timezone
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis.exceptions import RedisError, ResponseError

from billing.models import GatewayEvent, GatewayTask, Letter, Reservation
from billing.reconciliation import PROVED
from chat.llm.health.counters import read_open_breakers
from chat.turns import presence
from chat.turns.queue import GROUP, QUEUE
from config.backups.taken import last_backup_at
from config.health import ask_everything
from core.caching import CachedValue
from core.redis_clients import sync_redis
from core.watching import list_processes

CELERY_QUEUE = "celery"
SHARED_SECONDS = 5.0
"""How long the figures are good for whoever asks next."""
ERRANDS = {"webhooks": GatewayEvent, "gateway_tasks": GatewayTask, "letters": Letter}

METRICS = {
    "tertulia_turns_queued": "Turns that wait for a runner.",
    "tertulia_turns_taken": "Turns that a runner has, or had when it died.",
    "tertulia_turns_queued_oldest_seconds": "How long the longest waiting turn has waited for a runner.",
    "tertulia_runners_alive": "Runners that announced themselves lately.",
    "tertulia_processes_alive": "Processes that announced themselves lately, by kind.",
    "tertulia_breaker_open": "1 for a model whose breaker is open for some key.",
    "tertulia_celery_queue": "Tasks that wait for a worker.",
    "tertulia_reservations_open": "Reservations that are neither settled nor released.",
    "tertulia_reservations_oldest_seconds": "Age of the oldest open reservation.",
    "tertulia_reserved_micros": "What open reservations hold, in micro-US-dollars.",
    "tertulia_errands_waiting": "Errands that are due: notifications of gateways, tasks there, mails about money.",
    "tertulia_errands_lag_seconds": "How long the longest waiting errand has been due.",
    "tertulia_ledger_unbalanced": "Rows whose counters are not the sums of what they count, as the last proof found.",
    "tertulia_ledger_proved_timestamp_seconds": "When the ledger was proved last.",
    "tertulia_backup_taken_timestamp_seconds": "When a backup was taken last.",
    "tertulia_part_ready": "Whether a part that /readyz asks answers.",
    "tertulia_part_seconds": "How long a part that /readyz asks took.",
}
LABELS = {
    "tertulia_processes_alive": ("kind",),
    "tertulia_breaker_open": ("provider", "model"),
    "tertulia_errands_waiting": ("kind",),
    "tertulia_errands_lag_seconds": ("kind",),
    "tertulia_ledger_unbalanced": ("kind",),
    "tertulia_part_ready": ("part",),
    "tertulia_part_seconds": ("part",),
}


@dataclass(slots=True)
class SiteFigures:
    """The figures by name and labels. A store that is away leaves its own out."""

    values: dict[str, dict[tuple[str, ...], float]] = field(default_factory=dict)

    def put(self, name: str, value: float, *labels: str) -> None:
        self.values.setdefault(f"tertulia_{name}", {})[labels] = value

    def get(self, name: str, *labels: str) -> float | None:
        return self.values.get(f"tertulia_{name}", {}).get(labels)

    def items(self, name: str) -> list[tuple[tuple[str, ...], float]]:
        return sorted(self.values.get(f"tertulia_{name}", {}).items())


def read_site() -> SiteFigures:
    """Return the figures, at most some seconds old."""
    return _site.get()


def _load() -> SiteFigures:
    figures = SiteFigures()
    for read, errors in (
        (_read_redis, (RedisError, msgspec.DecodeError, RecursionError)),
        (_read_ledger, DatabaseError),
    ):
        try:
            read(figures)
        except errors:
            continue  # the parts say which store is away, or somebody else has written into Redis
    for part, answer in ask_everything().items():
        if part != "ready":
            figures.put("part_ready", float(answer["ok"]), part)
            figures.put("part_seconds", answer["ms"] / 1000, part)
    return figures


def _read_redis(figures: SiteFigures) -> None:
    redis: Any = sync_redis()
    seconds, microseconds = redis.time()
    now_ms = seconds * 1000 + microseconds / 1000
    taken, last = 0, b"0-0"
    try:
        groups = redis.xinfo_groups(QUEUE)
    except ResponseError:  # no turn was ever asked
        groups = []
    for group in groups:
        if group["name"] == GROUP.encode():
            taken, last = group["pending"], group["last-delivered-id"]
    oldest = redis.xrange(QUEUE, min=b"(" + last, count=1)
    figures.put("turns_taken", taken)
    figures.put("turns_queued", max(0, redis.xlen(QUEUE) - taken))
    figures.put(
        "turns_queued_oldest_seconds", max(0, now_ms - int(oldest[0][0].split(b"-")[0])) / 1000 if oldest else 0
    )
    figures.put("runners_alive", presence.count_runners())
    figures.put("celery_queue", redis.llen(CELERY_QUEUE))
    for kind in ("web", "runner", "worker", "beat"):
        figures.put("processes_alive", 0, kind)
    for one in list_processes():
        figures.put("processes_alive", (figures.get("processes_alive", one.kind) or 0) + 1, one.kind)
    for (provider, _digest, model), opened in read_open_breakers().items():
        if opened.seconds_left > 0:
            figures.put("breaker_open", 1, provider, model)
    if (taken_at := last_backup_at()) is not None:
        figures.put("backup_taken_timestamp_seconds", taken_at)
    if proved := redis.get(PROVED):
        counts = msgspec.json.decode(proved, type=dict[str, float])
        figures.put("ledger_proved_timestamp_seconds", counts.pop("at", 0))
        for kind, count in counts.items():
            figures.put("ledger_unbalanced", count, kind)


def _read_ledger(figures: SiteFigures) -> None:
    now = timezone.now()
    held = Reservation.objects.filter(state=Reservation.State.HELD).aggregate(
        count=Count("pk"), oldest=Min("created_at"), micros=Sum("amount_micros")
    )
    figures.put("reservations_open", held["count"])
    figures.put("reservations_oldest_seconds", _seconds_since(held["oldest"], now))
    figures.put("reserved_micros", held["micros"] or 0)
    for kind, model in ERRANDS.items():
        due = model.objects.filter(done_at=None, due_at__lte=now).aggregate(count=Count("pk"), oldest=Min("due_at"))
        figures.put("errands_waiting", due["count"], kind)
        figures.put("errands_lag_seconds", _seconds_since(due["oldest"], now), kind)


def _seconds_since(moment: Any, now: Any) -> float:
    return max(0.0, (now - moment).total_seconds()) if moment is not None else 0.0


class SiteCollector(Collector):
    def collect(self) -> Iterable[GaugeMetricFamily]:
        figures = read_site()
        for name, meaning in METRICS.items():
            family = GaugeMetricFamily(name, meaning, labels=LABELS.get(name, ()))
            for labels, value in figures.values.get(name, {}).items():
                family.add_metric(labels, value)
            yield family


def site_registry() -> CollectorRegistry:
    """Return what `/site` shows."""
    return _registry


_site = CachedValue(_load, seconds=SHARED_SECONDS)
_registry = CollectorRegistry(auto_describe=False)
_registry.register(SiteCollector())
