"""The Celery app and its schedule."""

import logging
import os
import sys
from time import monotonic
from typing import Any

from billiard import current_process
from celery import Celery, signals
from celery.schedules import crontab
from structlog.contextvars import bind_contextvars, get_contextvars, reset_contextvars

from core.metrics import TASK_SECONDS, TASKS_ENDED, TASKS_SENT
from core.preparation import NotPrepared, check_prepared
from core.sweeps import SWEEP_INTERVAL
from core.tracing import note_span

logger = logging.getLogger(__name__)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

CARRIED = ("request_id", "turn_id", "user_id")
"""What the log lines of a task have from whoever sent it, in the header `log_ids` of its message."""

app = Celery("tertulia")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.autodiscover_tasks(["core"], related_name="mail")
app.conf.beat_schedule = {
    "sweep-turns": {"task": "chat.tasks.sweep_turns", "schedule": SWEEP_INTERVAL, "options": {"expires": 15}},
    "probe-providers": {"task": "chat.tasks.probe", "schedule": 60.0, "options": {"expires": 50}},
    "remove-expired-tokens": {
        "task": "accounts.tasks.remove_expired_tokens",
        "schedule": 3600.0,
        "options": {"expires": 600},
    },
    "sweep-leaving": {"task": "accounts.tasks.sweep_leaving", "schedule": 60.0, "options": {"expires": 50}},
    "sweep-attachments": {"task": "chat.tasks.sweep_attachments", "schedule": 30.0, "options": {"expires": 30}},
    "drive-batches": {"task": "chat.batches.driving.drive_batches", "schedule": 15.0, "options": {"expires": 15}},
    "send-batch-webhooks": {
        "task": "chat.batches.webhooks.send_batch_webhooks",
        "schedule": 15.0,
        "options": {"expires": 15},
    },
    "sweep-batches": {"task": "chat.tasks.sweep_batches", "schedule": 60.0, "options": {"expires": 50}},
    "sweep-history": {"task": "chat.tasks.sweep_history", "schedule": 60.0, "options": {"expires": 55}},
    "sweep-shares": {"task": "history.tasks.sweep_shares", "schedule": 60.0, "options": {"expires": 50}},
    "embed-turns": {"task": "history.tasks.embed_turns", "schedule": 60.0, "options": {"expires": 50}},
    "sweep-transfers": {"task": "history.tasks.sweep_transfers", "schedule": 30.0, "options": {"expires": 30}},
    "work-off-billing": {"task": "billing.tasks.work_off_billing", "schedule": 60.0, "options": {"expires": 50}},
    "ask-gateways": {"task": "billing.tasks.ask_gateways", "schedule": 600.0, "options": {"expires": 500}},
    "compare-with-gateways": {
        "task": "billing.tasks.compare_with_gateways",
        "schedule": 6 * 3600.0,
        "options": {"expires": 3600},
    },
    "nightly-billing": {"task": "billing.tasks.nightly", "schedule": crontab(hour="4", minute="17")},
}


@signals.setup_logging.connect
def keep_logging(**_signal: Any) -> None:
    """Nothing: with this, Celery leaves logging as the settings have it. By itself it would give the level of its own
    option, which is WARNING, to everything that a worker says."""


@signals.worker_init.connect
@signals.beat_init.connect
def refuse_unprepared(**_signal: Any) -> None:
    """End a worker or beat before it begins where the databases are not as far as its code."""
    try:
        check_prepared()
    except NotPrepared as error:
        sys.exit(str(error))


@signals.before_task_publish.connect
def carry_ids(headers: dict[str, Any], **_signal: Any) -> None:
    bound = get_contextvars()
    if ids := {name: str(bound[name]) for name in CARRIED if name in bound}:
        headers["log_ids"] = ids


@signals.task_prerun.connect
def bind_ids(task_id: str, task: Any, **_signal: Any) -> None:
    ids = task.request.get("log_ids") or (task.request.get("headers") or {}).get("log_ids") or {}
    task.request.begun_at, task.request.log_ids = monotonic(), ids
    task.request.log_tokens = bind_contextvars(**ids, task=task.name, task_id=task_id)


@signals.after_task_publish.connect
def count_sent(sender: str, **_signal: Any) -> None:
    TASKS_SENT.labels(sender).inc()


@signals.task_postrun.connect
def note_end(task: Any, state: str | None, **_signal: Any) -> None:
    """Count it. What follows from somebody's request has a line in the log; what beat sends would have too many."""
    seconds, ended = monotonic() - task.request.get("begun_at", monotonic()), (state or "lost").lower()
    TASKS_ENDED.labels(task.name, ended).inc()
    TASK_SECONDS.labels(task.name).observe(seconds)
    if task.request.get("log_ids"):
        note_span("task", seconds, task=task.name, state=ended)
        logger.info("Task ended", extra={"state": ended, "seconds": round(seconds, 3)})
    reset_contextvars(**task.request.get("log_tokens") or {})


@signals.worker_ready.connect
def watch_worker(**_signal: Any) -> None:
    from core.watching import start_watching  # here: it needs settings, and the app is loaded before them

    start_watching("worker")


@signals.beat_init.connect
def watch_beat(**_signal: Any) -> None:
    if current_process().name != "MainProcess":  # a worker's own, which has the worker's address
        return
    from core.watching import start_watching

    start_watching("beat")
