"""The rows of batches: whose they are, taken by one worker at a time, erased with their files."""

import datetime as dt
from typing import IO, Any
from uuid import UUID

from django.core.files.storage import Storage
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from accounts.models import ApiKey
from chat.models import Batch, BatchLine
from core import rows
from core.errors import NotFound
from core.sweeps import MAX_CLOCK_DIFFERENCE, PAGE_SIZE
from history.transfer.states import transfer_storage

CLAIM_LASTS = dt.timedelta(seconds=20) + MAX_CLOCK_DIFFERENCE
"""Who has taken one and has not written for so long must have died: another worker takes it. If it did not, both ask
the same turns, which are asked once."""
LISTED = 50


class BatchLost(Exception):
    """Another worker has taken it, or it is in another state: stop."""


def batch_storage() -> Storage:
    return transfer_storage()


def file_of(batch: Batch) -> str:
    """Return the name of its file in the storage."""
    return f"batch-{batch.key}.jsonl"


def open_file(batch: Batch) -> IO[bytes]:
    """Open what was sent; raises OSError."""
    return batch_storage().open(file_of(batch))


def claim_batch(pk: UUID) -> Batch | None:
    """Take a batch that has something to do, and that nobody has, or a dead worker; None if there is none to take. It
    is yours until you write nothing for CLAIM_LASTS."""
    now = timezone.now()
    free = Q(claimed_at=None) | Q(claimed_at__lt=now - CLAIM_LASTS)
    waiting = Batch.objects.filter(free, pk=pk, status__in=Batch.OPEN)
    if not waiting.update(claimed_at=now, gen=F("gen") + 1):
        return None
    return Batch.objects.filter(pk=pk).first()


def write_batch(batch: Batch, **fields: Any) -> None:
    """Write the fields of one that is yours and still in the state you know, with a sign of life; raises BatchLost if
    it is not."""
    values = {"claimed_at": timezone.now()} | fields
    if not rows.update(Batch, {"pk": batch.pk, "gen": batch.gen, "status": batch.status}, values):
        raise BatchLost
    for name, value in values.items():
        setattr(batch, name, value)


def leave_batch(batch: Batch) -> None:
    """Let others take it at once."""
    rows.update(Batch, {"pk": batch.pk, "gen": batch.gen}, {"claimed_at": None})


def access_batch(owner_id: int, pk: UUID, key: ApiKey | None = None) -> Batch:
    """Return the owner's; a key without the history sees what was sent with it. Raises NotFound."""
    found = rows.find(Batch, pk=pk)
    if found is None or found.owner_id != owner_id or found.status == Batch.Status.ERASED or not _may_see(key, found):
        raise NotFound
    return found


def access_sent_batch(owner_id: int, pk: UUID, key: ApiKey | None = None) -> Batch:
    """Return the owner's, for whoever may start or cancel it: a key only what was sent with it, whatever it reads. Else
    its own month and models would not hold. Raises NotFound."""
    found = access_batch(owner_id, pk, key)
    if key is not None and found.with_key != key.pk:
        raise NotFound
    return found


def list_batches(owner_id: int, key: ApiKey | None = None) -> list[Batch]:
    """Return the owner's, the latest first."""
    found = Batch.objects.filter(owner_id=owner_id).exclude(status=Batch.Status.ERASED)
    if key is not None and ApiKey.Scope.HISTORY not in key.scopes:
        found = found.filter(with_key=key.pk)
    return list(found.order_by("-created_at", "-pk")[:LISTED])


def drop_file(batch: Batch) -> None:
    batch_storage().delete(file_of(batch))


def hide_batches(batches: "QuerySet[Batch]") -> None:
    """Hide them at once, which also stops their workers. `erase_hidden_batches` does the rest."""
    batches.update(status=Batch.Status.ERASED, gen=F("gen") + 1, webhook_due_at=None)


def erase_hidden_batches(**where: Any) -> None:
    """Remove the files of those that are hidden, then their rows, some lines at a time."""
    while hidden := list(Batch.objects.filter(status=Batch.Status.ERASED, **where)[:PAGE_SIZE]):
        for batch in hidden:
            drop_file(batch)
            erase_lines(batch)
            Batch.objects.filter(pk=batch.pk, status=Batch.Status.ERASED).delete()


def erase_lines(batch: Batch) -> None:
    """Erase the lines of a batch, some at a time: a store with one writer must not be kept from others for long."""
    while some := list(BatchLine.objects.filter(batch=batch).values_list("pk", flat=True)[:PAGE_SIZE]):
        BatchLine.objects.filter(pk__in=some).delete()


def _may_see(key: ApiKey | None, batch: Batch) -> bool:
    return key is None or ApiKey.Scope.HISTORY in key.scopes or batch.with_key == key.pk
