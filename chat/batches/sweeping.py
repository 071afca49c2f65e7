"""What beat repairs of batches: those that are over for long go, and what is left of those that were erased."""

import datetime as dt

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from chat.batches import states
from chat.models import Batch
from core.sweeps import guard


def repair_batches() -> None:
    """Do one pass of repairs. May run at the same time as anything else. Open batches are moved on by
    `driving.drive_batches`, which beat sends too."""
    kept_from = timezone.now() - dt.timedelta(days=settings.BATCH_DAYS)
    with guard("old batches"):
        over = Q(status__in=Batch.OVER, finished_at__lt=kept_from)
        never_started = Q(status=Batch.Status.VALIDATED, created_at__lt=kept_from)
        states.hide_batches(Batch.objects.filter(over | never_started))
    with guard("hidden batches"):
        states.erase_hidden_batches()
