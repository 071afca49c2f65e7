"""What beat repairs of imports and exports: those whose worker died, and those that are over for long."""

import datetime as dt
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from core.sweeps import MAX_CLOCK_DIFFERENCE, guard, iterate_pages
from history.models import Export, Import, Transfer
from history.transfer import states
from history.transfer.exporting import export_later
from history.transfer.importing import import_later

WAITING_GRACE = dt.timedelta(seconds=15) + MAX_CLOCK_DIFFERENCE
"""What waits longer has lost its task, or many are before it: one more task does no harm."""
REPORT_KEPT = dt.timedelta(days=90)
"""How long is said what came of an import."""


def repair_transfers() -> None:
    """Do one pass of repairs. May run at the same time as anything else."""
    now = timezone.now()
    _send_again(Import, import_later, now)
    _send_again(Export, export_later, now)
    with guard("old transfers"):
        kept_until = now - dt.timedelta(days=settings.EXPORT_DAYS)
        over = Q(status__in=(Export.Status.READY, Export.Status.FAILED))
        states.erase_transfers(Export.objects.filter(over, finished_at__lt=kept_until))
        over = Q(status__in=(Import.Status.DONE, Import.Status.REFUSED))
        states.erase_transfers(Import.objects.filter(over, finished_at__lt=now - REPORT_KEPT))
    for model in (Import, Export):
        with guard("hidden transfers"):
            states.erase_hidden_transfers(model)


def _send_again(model: type[Transfer], send: Callable[[UUID], None], now: dt.datetime) -> None:
    lost = Q(claimed_at=None, created_at__lt=now - WAITING_GRACE) | Q(claimed_at__lt=now - states.CLAIM_LASTS)
    with guard("transfers"):
        found: Any = model._default_manager.filter(lost, status__in=model.OPEN)
        for page in iterate_pages(found):
            for transfer in page:
                with guard("transfer", transfer_id=transfer.pk):
                    send(transfer.pk)
