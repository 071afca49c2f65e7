"""What a person or a program does with batches: send one, start it, cancel it, erase it."""

import secrets
from dataclasses import dataclass

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.db.models import F
from django.utils import timezone

from accounts import limits
from accounts.limits import Act
from accounts.models import ApiKey
from billing.entitlements import entitlements_of
from chat.batches import states
from chat.batches.driving import drive_soon
from chat.batches.refusals import BatchesNotInPlan, BatchFileRefused, BatchNotReady, BatchRunning, TooManyBatches
from chat.batches.webhooks import check_webhook, make_webhook_secret, tell_soon, webhook_fields
from chat.models import Batch
from core import rows


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTerms:
    """What its owner says of a batch: whether it is to start by itself once it is checked, the most it may cost, and
    whom to tell of its end."""

    starts_itself: bool = False
    max_cost_micros: int | None = None
    webhook_url: str = ""


def check_batches(owner_id: int) -> None:
    """Raise BatchesNotInPlan for a person whose plan is without batches."""
    if not entitlements_of(owner_id).has_batches:
        raise BatchesNotInPlan


def begin_batch(
    owner_id: int, upload: "UploadedFile[bytes] | None", terms: BatchTerms, key: ApiKey | None = None
) -> tuple[Batch, str]:
    """Store what was sent and return its batch, which a worker checks, and the secret of its webhook, empty without
    one. Raises BatchesNotInPlan, BatchFileRefused, BadWebhook, TooManyBatches or RateLimited.

    The row is written first: whatever dies in between, no stored file is without one.
    """
    check_batches(owner_id)
    if upload is None or not upload.size:
        raise BatchFileRefused("batch_missing")
    if upload.size > settings.BATCH_BYTES:
        raise BatchFileRefused("batch_too_large", status=413)
    secret, stored = make_webhook_secret() if terms.webhook_url else ("", "")
    batch = Batch(
        owner_id=owner_id,
        with_key=key.pk if key else None,
        name=" ".join((upload.name or "").split())[-100:] or "batch.jsonl",
        size=upload.size,
        key=secrets.token_hex(16),
        starts_itself=terms.starts_itself,
        max_cost_micros=terms.max_cost_micros,
        webhook_url=check_webhook(terms.webhook_url) if terms.webhook_url else "",
        webhook_secret=stored,
        claimed_at=timezone.now(),  # nobody's to take until its file is there
    )
    rows.insert(batch)
    try:
        _check_others(batch)
        limits.count_of_member(Act.BATCH, owner_id)
    except Exception:
        Batch.objects.filter(pk=batch.pk).delete()
        raise
    upload.seek(0)
    try:
        states.batch_storage().save(states.file_of(batch), upload)
    except Exception:  # a part of it may be there, which must not be asked
        states.hide_batches(Batch.objects.filter(pk=batch.pk))
        states.erase_hidden_batches(pk=batch.pk)
        raise
    if not rows.update(Batch, {"pk": batch.pk, "status": batch.status}, {"claimed_at": None}):
        states.drop_file(batch)  # the account was closed meanwhile
    drive_soon()
    return batch, secret


def start_batch(batch: Batch, *, max_cost_micros: int | None = None) -> Batch:
    """Start a batch that is checked; one that runs already is as good. Raises BatchNotReady, or BatchesNotInPlan."""
    check_batches(batch.owner_id)
    started = {"status": Batch.Status.RUNNING, "started_at": timezone.now(), "claimed_at": None}
    if max_cost_micros is not None:
        started["max_cost_micros"] = max_cost_micros
    rows.update(Batch, {"pk": batch.pk, "status": Batch.Status.VALIDATED}, started)
    batch.refresh_from_db()
    if batch.started_at is None:
        raise BatchNotReady
    drive_soon()
    return batch


def cancel_batch(batch: Batch) -> Batch:
    """Ask no more lines of a batch, and stop those that are being answered; one that is over stays as it is. One that
    was not started is cancelled at once. It is looked for first: it may be started at this moment, and must not be
    passed over."""
    of_batch = Batch.objects.filter(pk=batch.pk)
    freed = {"gen": F("gen") + 1, "claimed_at": None}
    early = of_batch.filter(status__in=(Batch.Status.VALIDATING, Batch.Status.VALIDATED))
    over = {"status": Batch.Status.CANCELLED, "finished_at": timezone.now(), **webhook_fields(batch)}
    if early.update(**over, **freed):
        states.drop_file(batch)
        tell_soon(batch)
    else:
        of_batch.filter(status=Batch.Status.RUNNING).update(status=Batch.Status.STOPPING, **freed)
    batch.refresh_from_db()
    drive_soon()
    return batch


def erase_batch(batch: Batch) -> None:
    """Erase a batch that is over or was not started, with its results. Raises BatchRunning."""
    states.hide_batches(Batch.objects.filter(pk=batch.pk).exclude(status__in=_RUNNING))
    batch.refresh_from_db()
    if batch.status != Batch.Status.ERASED:
        raise BatchRunning
    states.erase_hidden_batches(pk=batch.pk)


_RUNNING = (Batch.Status.RUNNING, Batch.Status.STOPPING)


def _check_others(batch: Batch) -> None:
    """Raise TooManyBatches. Asked after it was written, so that of several at the same time none slips through."""
    unfinished = (*Batch.OPEN, Batch.Status.VALIDATED)
    if Batch.objects.filter(owner_id=batch.owner_id, status__in=unfinished).count() > settings.BATCHES_AT_ONCE:
        raise TooManyBatches
