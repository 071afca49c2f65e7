"""The Celery app and its schedule."""

import os
from typing import Any

from celery import Celery
from celery.schedules import crontab
from celery.signals import beat_init, worker_init

from core.sweeps import SWEEP_INTERVAL

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")


@worker_init.connect
@beat_init.connect
def refuse_half_restored(**_signal: Any) -> None:
    """End the process before it works: an exception of any other kind would only be logged."""
    from core.half_restored import HalfRestored, require_whole  # Django is set up by now

    try:
        require_whole()
    except HalfRestored as error:
        raise SystemExit(str(error)) from None


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
