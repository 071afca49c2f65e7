"""The rows of imports and exports: taken by one worker at a time, written by who has them, erased with their files.

Each step is one conditional write of a row: see the top of history/models.py.
"""

import datetime as dt
from typing import Any, TypeVar
from uuid import UUID

from django.core.files.storage import Storage, storages
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from core import rows
from core.errors import NotFound
from core.sweeps import MAX_CLOCK_DIFFERENCE, PAGE_SIZE
from history.models import Export, Import, Transfer

T = TypeVar("T", bound=Transfer)

CLAIM_LASTS = dt.timedelta(seconds=60) + MAX_CLOCK_DIFFERENCE
"""Who has taken one and has not written for so long must have died: another worker takes it."""
BEAT_SECONDS = 10.0
"""So often at least a worker writes that it is alive."""
MAX_TRIES = 4


class Lost(Exception):
    """Somebody else has taken it, or it was erased: stop."""


def transfer_storage() -> Storage:
    return storages["transfers"]


def part(transfer: Transfer, name: str) -> str:
    """Return the name of one of its files in the storage: `source`, what was uploaded; `made`, what reading made of it;
    `zip`, what is to be downloaded."""
    return f"{transfer.key}/{name}"


def claim_transfer(model: type[T], pk: UUID, *, of: tuple[str, ...], first: str) -> T | None:
    """Take one that waits in state `first`, or whose worker is dead, in one of the states `of`; None if there is none
    to take. It is yours until you write nothing for CLAIM_LASTS."""
    now = timezone.now()
    free = Q(claimed_at=None) | Q(claimed_at__lt=now - CLAIM_LASTS)
    waiting = model._default_manager.filter(Q(status__in=(first, *of)) & free, pk=pk)
    if not waiting.update(claimed_at=now, gen=F("gen") + 1, tries=F("tries") + 1):
        return None
    return model._default_manager.filter(pk=pk).first()


def write_state(transfer: Transfer, **fields: Any) -> None:
    """Write the fields of one that is yours, with a sign of life; raises Lost if it is not any more."""
    values = {"claimed_at": timezone.now()} | fields
    if not rows.update(type(transfer), {"pk": transfer.pk, "gen": transfer.gen, "status": transfer.OPEN}, values):
        raise Lost
    for name, value in values.items():
        setattr(transfer, name, value)


def access(model: type[T], owner_id: int, pk: UUID) -> T:
    """Return the owner's; raises NotFound."""
    found = rows.find(model, pk=pk)
    if found is None or found.owner_id != owner_id or found.status == "erased":
        raise NotFound
    return found


def list_of(model: type[T], owner_id: int, limit: int = 10) -> list[T]:
    """Return the owner's, the latest first."""
    return list(_of_owner(model, owner_id).exclude(status="erased").order_by("-created_at", "-pk")[:limit])


def has_another_open(transfer: Transfer) -> bool:
    """Return whether the owner has another one that is not finished. Asked after it was written, so that of two at the
    same time none slips through."""
    of_owner = _of_owner(type(transfer), transfer.owner_id)
    return of_owner.filter(status__in=transfer.OPEN).exclude(pk=transfer.pk).exists()


def erase_transfers(transfers: "QuerySet[Any]") -> None:
    """Hide them at once, which also stops their workers. `erase_hidden_transfers` does the rest."""
    transfers.update(status="erased", gen=F("gen") + 1)


def erase_hidden_transfers(model: type[Transfer], **where: Any) -> None:
    """Remove the files of those that are hidden, then their rows."""
    while hidden := list(model._default_manager.filter(status="erased", **where)[:PAGE_SIZE]):
        for transfer in hidden:
            drop_files(transfer)
        model._default_manager.filter(pk__in=[transfer.pk for transfer in hidden], status="erased").delete()


def erase_transfers_of(owner_id: int) -> None:
    """Erase all imports and exports of a person who is gone."""
    for model in (Import, Export):
        erase_transfers(_of_owner(model, owner_id))
        erase_hidden_transfers(model, owner_id=owner_id)


def drop_files(transfer: Transfer) -> None:
    """Remove its files, whatever they are called: of two workers that write one, the storage gives the second another
    name."""
    storage = transfer_storage()
    try:
        _folders, names = storage.listdir(transfer.key)
    except FileNotFoundError:
        return
    for name in names:
        storage.delete(part(transfer, name))
    try:
        storage.delete(transfer.key)
    except OSError:  # no folder, or a worker is just writing into it
        pass


def drop_if_erased(transfer: Transfer) -> None:
    """Remove what was written of one that was erased meanwhile: whoever did that could not know of it."""
    current = rows.find(type(transfer), pk=transfer.pk)
    if current is None or current.status == "erased":
        drop_files(transfer)


def _of_owner(model: type[T], owner_id: int) -> "QuerySet[T]":
    return model._default_manager.filter(owner_id=owner_id)
