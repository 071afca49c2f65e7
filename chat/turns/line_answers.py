"""The answer to a line of a batch: kept in the line's row, in the transaction that settles the turn or releases it. So
an answer that was paid for is there, whatever dies, and one that is there is in the bill."""

import datetime as dt
from uuid import UUID

import msgspec
from django.utils import timezone

from chat.errors import OF_ANSWERS
from chat.models import Batch, BatchLine
from core import rows
from history.models import Turn
from history.progress import Outcome

MAX_TRIES = 3
"""How often a line is asked at most."""
TRY_AGAIN = dt.timedelta(seconds=10)
"""After the first failure; after the next it is longer by the factor TRY_LONGER."""
TRY_LONGER = 6

MAY_PASS = frozenset(
    ("rate_limited", "overloaded", "timeout", "connection", "truncated", "bad_response", "unknown", "no_model")
    + ("queue_timeout", "runner_lost", "asked_lost", "internal_error")
)
"""Codes of turns that may end better another time. Only what cost nothing is asked again."""


class LineAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a line ended: what its turn was, in words that `Turn` has too. With a `refused_with` there was no turn: it
    was refused before, with this status, the code `error` and the sentence `answer`."""

    status: str = Turn.Status.FAILED.value
    answer: str = ""
    reasoning: str = ""
    tool_calls: str | None = None
    model: str = ""
    requested_model: str = ""
    finish_reason: str = ""
    error: str = ""
    usage_source: str = ""
    input_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_micros: int | None = None
    created_at: dt.datetime | None = None
    refused_with: int = 0

    @property
    def is_answer(self) -> bool:
        return self.status == Turn.Status.COMPLETED or self.error in OF_ANSWERS


_encode = msgspec.json.Encoder().encode
decode_line_answer = msgspec.json.Decoder(LineAnswer).decode
_OF_OUTCOME = tuple(
    name
    for name in LineAnswer.__struct_fields__
    if name not in ("requested_model", "created_at", "cost_micros", "refused_with")
)


def find_line(turn_id: UUID) -> BatchLine | None:
    """Return the line that a turn is to answer, if it is one of a batch."""
    return rows.find(BatchLine, turn_id=turn_id, status=BatchLine.Status.OPEN)


def has_limit(line: BatchLine) -> bool:
    """Return whether the batch of a line has a limit on its cost."""
    return Batch.objects.filter(pk=line.batch_id, max_cost_micros__isnull=False).exists()


def keep_answer(line: BatchLine, turn: Turn, outcome: Outcome | Turn, *, cost_micros: int) -> None:
    """Write how the turn ended into the line, where it is not there yet; the caller has a transaction, in which the
    turn is settled or released. What failed and cost nothing waits for another try."""
    if not cost_micros and _is_worth_a_try(line, outcome):
        _ask_again(line)
        return
    fields = {name: getattr(outcome, name) for name in _OF_OUTCOME}
    answer = LineAnswer(
        **fields, requested_model=turn.requested_model, created_at=turn.created_at, cost_micros=cost_micros
    )
    end_line(line, answer)


def end_line(line: BatchLine, answer: LineAnswer) -> None:
    """Write the answer of a line that is open, and count it in its batch; nothing if it is not open any more. The
    caller has a transaction. Rows are locked in one order: the line, then the batch."""
    cost_micros = answer.cost_micros or 0
    done = {"status": BatchLine.Status.DONE, "answer": _encode(answer).decode(), "cost_micros": cost_micros}
    if rows.update(BatchLine, {"pk": line.pk, "status": BatchLine.Status.OPEN}, done):
        counter = "completed" if answer.is_answer else "failed"
        rows.update(Batch, {"pk": line.batch_id}, {}, plus={counter: 1, "cost_micros": cost_micros})


def _is_worth_a_try(line: BatchLine, outcome: Outcome | Turn) -> bool:
    if outcome.status == Turn.Status.STOPPED:  # with its batch, which then says that it was never asked
        return True
    return outcome.status != Turn.Status.COMPLETED and outcome.error in MAY_PASS and line.tries + 1 < MAX_TRIES


def _ask_again(line: BatchLine) -> None:
    due_at = timezone.now() + TRY_AGAIN * TRY_LONGER**line.tries
    waiting = {"status": BatchLine.Status.WAITING, "turn_id": None, "due_at": due_at}
    rows.update(BatchLine, {"pk": line.pk, "status": BatchLine.Status.OPEN}, waiting, plus={"tries": 1})
