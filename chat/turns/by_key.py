"""What an API key may use and read of its owner's: a month of its own, and the turns that were asked with it."""

from uuid import UUID

from accounts.models import ApiKey
from billing import metering
from billing.metering import Part
from core.errors import NotFound


def part_of(key: ApiKey | None) -> Part | None:
    """Return what billing is told of a key: a label, and the limit."""
    return Part(str(key.pk), key.monthly_credits) if key else None


def check_may_read(key: ApiKey | None, turn_id: UUID) -> None:
    """Raise NotFound unless whoever came without a key, with one that reads the history, or with the one that asked
    this turn. What led to such a turn was asked with it too: it could go on from nothing else."""
    if key is not None and ApiKey.Scope.HISTORY not in key.scopes:
        check_asked_with(key, turn_id)


def check_asked_with(key: ApiKey | None, turn_id: UUID) -> None:
    """Raise NotFound for a turn that was not asked with this key, where there is one."""
    if key is not None and metering.find_part(turn_id) != str(key.pk):
        raise NotFound
