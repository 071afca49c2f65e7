"""Claims and closes turns. Each step is one conditional update of the row, so of several callers one succeeds."""

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Annotated, Any
from uuid import UUID

import msgspec
from django.utils import timezone

from core import rows
from core.sweeps import iterate_pages
from history.folding import searched
from history.models import Turn
from history.temporary import find_temporary_turns, is_temporary, update_open_temporary

Number = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Micros = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
"""A thousand million dollars: sums of it fit a BIGINT, too."""
Key = Annotated[str, msgspec.Meta(max_length=100)]
Provider = Annotated[str, msgspec.Meta(max_length=50)]
Code = Annotated[str, msgspec.Meta(max_length=40)]
Word = Annotated[str, msgspec.Meta(max_length=20)]


class Outcome(msgspec.Struct, frozen=True):
    """How a turn ended. `input_tokens` includes what was read from and written to a cache.

    Decoding one raises msgspec.ValidationError for what the row of a finished turn cannot hold.
    """

    status: Annotated[str, msgspec.Meta(pattern="^(completed|stopped|failed|interrupted)$")]
    answer: str = ""
    reasoning: str = ""
    tool_calls: str | None = None
    dialogue: Annotated[str, msgspec.Meta(max_length=32)] | None = None
    model: Key = ""
    provider: Provider = ""
    instead_of: Key = ""
    instead_because: Code = ""
    is_from_cache: bool = False
    input_tokens: Number = 0
    cache_read_tokens: Number = 0
    cache_write_tokens: Number = 0
    output_tokens: Number = 0
    reasoning_tokens: Number = 0
    usage_source: Annotated[str, msgspec.Meta(pattern="^(|provider|estimated)$")] = ""
    cost_micros: Micros | None = None
    price: str = ""
    unanswered: str | None = None
    finish_reason: Word = ""
    error: Code = ""
    first_token_at: dt.datetime | None = None
    reasoning_ms: Number = 0


def claim(turn: Turn) -> bool:
    """Take the turn for writing, as its next generation; return whether `turn.gen` was still its generation."""
    return _update_open(turn, {"gen": turn.gen + 1, "status": Turn.Status.STREAMING, "started_at": timezone.now()})


def close(turn: Turn, outcome: Outcome) -> bool:
    """Write how the turn ended, if it is open and `turn.gen` is still its generation; return whether it was."""
    fields = msgspec.structs.asdict(outcome)
    fields["search_text"] = searched(f"{turn.question}\n{outcome.answer}")
    fields["completed_at"] = timezone.now()
    return _update_open(turn, fields)


def iterate_queued(*, older_than: dt.timedelta) -> Iterator[list[Turn]]:
    """Yield the turns that were asked so long ago and that nobody has claimed, oldest first, a page at a time."""
    return iterate_pages(Turn.objects.filter(status=Turn.Status.QUEUED, created_at__lt=timezone.now() - older_than))


def iterate_streaming() -> Iterator[list[Turn]]:
    """Yield the turns that somebody has claimed, oldest first, a page at a time."""
    return iterate_pages(Turn.objects.filter(status=Turn.Status.STREAMING))


def iterate_open() -> Iterator[list[Turn]]:
    """Yield the turns that are not over, oldest first, a page at a time."""
    return iterate_pages(Turn.objects.filter(status__in=Turn.OPEN))


def list_open_in(owner_id: int, conversation_ids: Sequence[UUID]) -> list[Turn]:
    """Return the turns of an owner's conversations that are not over."""
    of_owner = Turn.objects.filter(owner_id=owner_id, status__in=Turn.OPEN)
    return list(of_owner.filter(conversation_id__in=conversation_ids))


def list_open_among(turn_ids: Sequence[UUID]) -> list[Turn]:
    """Return those of the turns that are open, also temporary ones."""
    temporary = list_open_temporary(turn_ids)
    return [*Turn.objects.filter(pk__in=turn_ids, status__in=Turn.OPEN), *temporary]


def list_open_temporary(turn_ids: Sequence[UUID]) -> list[Turn]:
    """Return those of the turns that are temporary and open."""
    found = find_temporary_turns([pk for pk in turn_ids if is_temporary(pk)])
    return [turn for turn in found.values() if turn.is_open]


def find_turns(turn_ids: list[UUID]) -> dict[UUID, Turn]:
    """Return the turns that exist, by id, also temporary ones."""
    temporary = find_temporary_turns([pk for pk in turn_ids if is_temporary(pk)])
    return {turn.pk: turn for turn in Turn.objects.filter(pk__in=turn_ids)} | temporary


def _update_open(turn: Turn, fields: dict[str, Any]) -> bool:
    """Write `fields` if the turn is open and `turn.gen` is still its generation; return whether it was."""
    if is_temporary(turn.pk):
        is_ours = update_open_temporary(turn, fields)
    else:
        is_ours = rows.update(Turn, {"pk": turn.pk, "gen": turn.gen, "status": Turn.OPEN}, fields) == 1
    if not is_ours:
        return False
    for name, value in fields.items():
        setattr(turn, name, value)
    return True
