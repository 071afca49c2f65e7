"""Claims and closes turns. Each step is one conditional update of the row, so of several callers one succeeds."""

import datetime as dt
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from django.utils import timezone

from core import rows
from history.models import Turn
from history.search import fold


class Outcome(msgspec.Struct, frozen=True):
    """How a turn ended. `input_tokens` includes what was read from and written to a cache."""

    status: str
    answer: str = ""
    reasoning: str = ""
    model: str = ""
    provider: str = ""
    instead_of: str = ""
    instead_because: str = ""
    is_from_cache: bool = False
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    usage_source: str = ""
    cost_micros: int | None = None
    price: str = ""
    finish_reason: str = ""
    error: str = ""
    first_token_at: dt.datetime | None = None
    reasoning_ms: int = 0


def claim(turn: Turn) -> bool:
    """Take the turn for writing, as its next generation; return whether `turn.gen` was still its generation."""
    return _update_open(turn, {"gen": turn.gen + 1, "status": Turn.Status.STREAMING, "started_at": timezone.now()})


def close(turn: Turn, outcome: Outcome) -> bool:
    """Write how the turn ended, if it is open and `turn.gen` is still its generation; return whether it was."""
    fields = msgspec.structs.asdict(outcome)
    fields["search_text"] = fold(f"{turn.question}\n{outcome.answer}")
    fields["completed_at"] = timezone.now()
    return _update_open(turn, fields)


def list_open(status: str, *, older_than: dt.timedelta, limit: int = 500) -> list[Turn]:
    """Return turns of an open `status` that were asked (queued) or claimed (streaming) so long ago, oldest first."""
    latest = timezone.now() - older_than
    field = "created_at" if status == Turn.Status.QUEUED else "started_at"
    return list(Turn.objects.filter(status=status, **{f"{field}__lt": latest}).order_by("created_at")[:limit])


def list_open_among(turn_ids: Sequence[UUID]) -> list[Turn]:
    """Return those of the turns that are open."""
    return list(Turn.objects.filter(pk__in=turn_ids, status__in=Turn.OPEN))


def find_turns(turn_ids: list[UUID]) -> dict[UUID, Turn]:
    """Return the turns that exist, by id."""
    return {turn.pk: turn for turn in Turn.objects.filter(pk__in=turn_ids)}


def _update_open(turn: Turn, fields: dict[str, Any]) -> bool:
    """Write `fields` if the turn is open and `turn.gen` is still its generation; return whether it was."""
    if not rows.update(Turn, {"pk": turn.pk, "gen": turn.gen, "status": Turn.OPEN}, fields):
        return False
    for name, value in fields.items():
        setattr(turn, name, value)
    return True
