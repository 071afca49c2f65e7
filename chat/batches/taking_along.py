"""What an export of everything has of batches: what they were, and their results."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from django.dispatch import receiver
from django.utils.translation import gettext as _

from accounts.export_parts import ExportPart, json_of_all
from accounts.models import User
from accounts.signals import everything_taken_along
from chat.batches.results import write_results
from chat.models import Batch
from core.sweeps import iterate_pages

_FOLDER = "batches/"
_BATCH = (
    *("id", "name", "size", "status", "error", "total", "completed", "failed", "estimate_micros", "most_micros"),
    *("max_cost_micros", "cost_micros", "webhook_url", "created_at", "started_at", "finished_at"),
)


@receiver(everything_taken_along)
def parts_of_batches(user: User, **_signal: Any) -> Iterator[ExportPart]:
    yield ExportPart(
        name="batches.json",
        about=_("The batches you have sent, and what they cost."),
        pieces=lambda: json_of_all({name: getattr(batch, name) for name in _BATCH} for batch in _of_user(user)),
    )
    for batch in _of_user(user):
        yield ExportPart(
            name=f"{_FOLDER}{batch.pk}.jsonl",
            about=_("The results of your batches, a line for each request."),
            pieces=partial(write_results, batch),
            listed_as=_FOLDER,
        )


def _of_user(user: User) -> Iterator[Batch]:
    for page in iterate_pages(Batch.objects.filter(owner_id=user.pk).exclude(status=Batch.Status.ERASED)):
        yield from page
