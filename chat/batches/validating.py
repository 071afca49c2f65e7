"""Checks the file of a batch line by line, and says what it may cost: before the first is asked, all of them could be.

What is checked is a row for each line, written with the place where the next begins: whoever goes on after a crash
begins there.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts.models import ApiKey
from billing import entitlements
from billing.entitlements import Budget
from billing.metering import Usage
from chat.batches import states
from chat.batches.lines import (
    FileLine,
    LineProblem,
    completion_of,
    describe_problem,
    read_custom_id,
    read_lines,
    turn_id_of,
)
from chat.batches.states import write_batch
from chat.batches.webhooks import tell_soon, webhook_fields
from chat.llm.pricing import SETTLE_BYTES_PER_TOKEN, cost_of
from chat.models import Batch, BatchLine
from chat.shown.costs import TYPICAL_ANSWER_TOKENS, TYPICAL_REASONING_TOKENS
from chat.turns.completing import offer_for
from chat.turns.offer import Offer
from core.errors import DomainError, Unavailable

LINES_AT_ONCE = 200
"""Lines in one portion, which is written in one transaction."""
PORTION_SECONDS = 2.0
MAX_PROBLEMS = 20
"""Lines that are named of a file that is refused."""


@dataclass(slots=True)
class _Portion:
    """What a portion of lines came to. `number` is the last line that was looked at."""

    position: int
    number: int
    lines: list[BatchLine] = field(default_factory=list)
    problems: list[dict[str, Any]] = field(default_factory=list)
    estimate_micros: int = 0
    is_end: bool = False

    @property
    def most_micros(self) -> int:
        return sum(line.most_micros for line in self.lines)


def validate_portion(batch: Batch, key: ApiKey | None) -> None:
    """Check the next lines. Raises BatchLost, and Unavailable where a store is away."""
    try:
        if states.batch_storage().size(states.file_of(batch)) != batch.size:  # whoever was writing it has died
            raise FileNotFoundError
        with states.open_file(batch) as file:
            portion = _check(batch, key, read_lines(file, batch.position, batch.lines_read + 1))
    except FileNotFoundError:
        refuse(batch, "batch_file_lost")
        return
    total = batch.total + len(portion.lines)
    if portion.problems:
        refuse(batch, "batch_file_wrong", portion.problems[:MAX_PROBLEMS])
    elif total > settings.BATCH_LINES:
        refuse(batch, "batch_too_many_lines")
    elif portion.is_end and not total:
        refuse(batch, "batch_empty")
    else:
        _write(batch, portion)


def refuse(batch: Batch, code: str, problems: list[dict[str, Any]] | None = None) -> None:
    """Refuse the file: nothing of it is asked, and nothing of it is kept but what is wrong with it."""
    said = {"error": code, "problems": msgspec.json.encode(problems or []).decode(), "total": 0}
    over = {"status": Batch.Status.REFUSED, "finished_at": timezone.now(), "estimate_micros": 0, "most_micros": 0}
    write_batch(batch, **said, **over, **webhook_fields(batch))
    states.erase_lines(batch)
    states.drop_file(batch)
    tell_soon(batch)


def _check(batch: Batch, key: ApiKey | None, found: Iterator[FileLine]) -> _Portion:
    budget = entitlements.budget_of(batch.owner_id)
    portion = _Portion(batch.position, batch.lines_read)
    seen: set[str] = set()
    ends_at = time.monotonic() + PORTION_SECONDS
    for line in found:
        portion.position, portion.number = line.following, line.number
        if line.is_blank:
            continue
        try:
            _check_line(batch, key, budget, line, portion, seen)
        except Unavailable:
            raise
        except DomainError as error:
            portion.problems.append(describe_problem(line.number, error))
        if len(portion.lines) >= LINES_AT_ONCE or len(portion.problems) >= MAX_PROBLEMS or time.monotonic() > ends_at:
            break
    else:
        portion.is_end = True
    portion.problems += _seen_before(batch, portion)
    portion.problems.sort(key=lambda problem: problem["line"])
    return portion


def _check_line(
    batch: Batch, key: ApiKey | None, budget: Budget, line: FileLine, portion: _Portion, seen: set[str]
) -> None:
    """Add the row of a line, and what it may cost; raises what refuses it."""
    custom_id, body = read_custom_id(line)
    if custom_id in seen:
        raise LineProblem("custom_id_again")
    seen.add(custom_id)
    completion = completion_of(body, turn_id=turn_id_of(batch, line.number, 0), key=key)
    offer = offer_for(batch.owner_id, completion, budget)
    portion.estimate_micros += _estimate(offer)
    portion.lines.append(
        BatchLine(
            batch=batch,
            number=line.number,
            custom_id=custom_id,
            position=line.position,
            length=len(line.raw),
            most_micros=offer.max_cost_micros,
        )
    )


def _seen_before(batch: Batch, portion: _Portion) -> list[dict[str, Any]]:
    """Return what is wrong with lines whose id an earlier portion has."""
    ids = {line.custom_id: line for line in portion.lines}
    known = BatchLine.objects.filter(batch=batch, custom_id__in=ids, number__lt=batch.lines_read + 1)
    again = LineProblem("custom_id_again")
    return [describe_problem(ids[one].number, again) for one in known.values_list("custom_id", flat=True)]


def _estimate(offer: Offer) -> int:
    """Return what an answer of the usual length may cost, by the first who may give it: as the chat page does."""
    model = offer.selection.candidates[0].model
    usual = TYPICAL_ANSWER_TOKENS + TYPICAL_REASONING_TOKENS * model.reasons
    output = min(usual, offer.max_output)
    return cost_of(model, Usage(input=offer.prompt.tokens(SETTLE_BYTES_PER_TOKEN), output=output))


def _write(batch: Batch, portion: _Portion) -> None:
    fields: dict[str, Any] = {
        "position": portion.position,
        "lines_read": portion.number,
        "total": batch.total + len(portion.lines),
        "estimate_micros": batch.estimate_micros + portion.estimate_micros,
        "most_micros": batch.most_micros + portion.most_micros,
    }
    if portion.is_end:
        fields |= {"status": Batch.Status.VALIDATED}
        if batch.starts_itself:
            fields |= {"status": Batch.Status.RUNNING, "started_at": timezone.now()}
    with transaction.atomic():
        BatchLine.objects.bulk_create(portion.lines)
        write_batch(batch, **fields)
