"""Batches for tests: files, and what a worker does with them."""

import json
from collections.abc import Iterable
from typing import Any

from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone

from accounts.models import ApiKey, User
from billing.models import Plan, Reservation, UsageRecord
from chat.batches import driving, states
from chat.batches.beginning import BatchTerms, begin_batch, start_batch
from chat.batches.results import write_results
from chat.models import Batch, BatchLine
from core.threads import in_thread
from tests.chat.asking import eventually


def line(custom_id: Any, text: str = "say:hola usage:10/3", **body: Any) -> dict[str, Any]:
    sent = {"model": "scripted", "max_tokens": 100, "messages": [{"role": "user", "content": text}]} | body
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": sent}


def as_file(lines: Iterable[Any]) -> SimpleUploadedFile:
    data = b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines)
    return SimpleUploadedFile("questions.jsonl", data)


def change_plans(**fields: Any) -> None:
    """Change all plans, so that every process knows at once."""
    for plan in Plan.objects.all():
        for name, value in fields.items():
            setattr(plan, name, value)
        plan.save()


def send(user: User, lines: Iterable[Any], *, key: ApiKey | None = None, start: bool = True, **terms: Any) -> Batch:
    """Send a batch, have it checked, and started: no line was asked yet."""
    batch, _secret = begin_batch(user.pk, as_file(lines), BatchTerms(**terms), key)
    while now(batch).status == Batch.Status.VALIDATING:
        release(batch)
        driving.drive(0.01)
    return start_batch(now(batch)) if start and now(batch).status == Batch.Status.VALIDATED else now(batch)


def now(batch: Batch) -> Batch:
    return Batch.objects.get(pk=batch.pk)


def release(batch: Batch) -> None:
    """Let the time pass after which a worker is taken to be dead."""
    Batch.objects.filter(pk=batch.pk).update(claimed_at=None)


async def work_off(batch: Batch) -> Batch:
    """Do what workers do until the batch is over; return it."""

    def go_on() -> Batch | None:
        driving.drive(0.2)
        found = now(batch)
        return found if found.is_over else None

    found: Batch = await eventually(lambda: in_thread(go_on))
    return found


def results(batch: Batch) -> list[Any]:
    return [json.loads(one) for one in b"".join(write_results(now(batch))).splitlines()]


def check_bill(batch: Batch) -> int:
    """Check that the ledger has each line that was paid for once, and nothing else; return what was paid."""
    batch = now(batch)
    done = BatchLine.objects.filter(batch=batch, status=BatchLine.Status.DONE)
    costs = {one.turn_id: one.cost_micros for one in done if one.cost_micros}
    records = dict(UsageRecord.objects.values_list("reservation_id", "cost_micros"))
    assert records == costs
    assert not Reservation.objects.filter(state=Reservation.State.HELD).exists()
    assert batch.cost_micros == sum(costs.values())
    assert batch.done == done.count()
    return batch.cost_micros


def let_time_pass() -> None:
    """Let so much time pass that every worker is taken to be dead, and every hold to be forgotten."""
    long_ago = timezone.now() - states.CLAIM_LASTS * 10
    Batch.objects.filter(claimed_at__isnull=False).update(claimed_at=long_ago)
    BatchLine.objects.filter(opened_at__isnull=False).update(opened_at=long_ago)
    Reservation.objects.filter(state=Reservation.State.HELD).update(created_at=long_ago)
