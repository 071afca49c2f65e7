"""Closes a turn: the answer is saved and the reservation settled or released, each exactly once."""

import logging
from contextlib import nullcontext
from math import ceil

from django.db import transaction
from django.utils import timezone

from billing import metering
from billing.metering import Usage
from billing.spending import UnpaidRequest
from chat.llm.catalog import RECORDED
from chat.llm.pricing import read_stamp
from chat.models import BatchLine
from chat.turns.dialogues import as_kept
from chat.turns.line_answers import find_line, has_limit, keep_answer
from chat.turns.metrics import count_end
from chat.turns.sent_requests import read_unanswered
from core.tracing import note_span
from history import access, progress
from history.models import Turn
from history.progress import Outcome
from history.temporary import is_temporary

logger = logging.getLogger(__name__)

ENDED_ON_PURPOSE = ("content_filter", "refusal", "tool_call")
"""Errors of answers that would end in the same way if they went on."""


def close_turn(turn: Turn, outcome: Outcome) -> bool:
    """Save `outcome` and settle; return whether it was saved: False if somebody else closed or claimed the turn.

    It is settled even if saving fails: the tokens were used. The sweep repeats either one.
    """
    try:
        is_ours = progress.close(turn, as_kept(turn, outcome))
    except Exception:
        settle_turn(turn, outcome)
        raise
    if is_ours:
        _note_end(turn, outcome)
        settle_turn(turn, outcome)
    else:
        settle_deleted(turn, outcome)
    return is_ours


def _note_end(turn: Turn, outcome: Outcome) -> None:
    count_end(turn, outcome)
    fields = {"status": outcome.status, "code": outcome.error, "model": outcome.model, "provider": outcome.provider}
    if turn.created_at is not None:
        note_span("turn", (timezone.now() - turn.created_at).total_seconds(), **fields)
    logger.info("Turn ended", extra={"turn_id": turn.pk, "user_id": turn.owner_id, **fields})


def settle_deleted(turn: Turn, outcome: Outcome) -> None:
    """Settle a turn that was deleted while it was being written; another's is settled by who has it."""
    if access.find_turn(turn.pk) is None:
        settle_turn(turn, outcome)


def settle_turn(turn: Turn, outcome: Outcome | Turn) -> None:
    """Settle what a finished turn used, or release its reservation when it used nothing. May be repeated.

    An answer from the cache used nothing, and is not in the ledger. What providers take for requests that gave no
    answer is counted in their days, and paid by nobody. What is charged above the reservation is input that was
    estimated too low (chat/turns/outcomes.py); where nobody knows what was reserved, the ledger charges no more.

    Of a line of a batch the answer is kept in the same transaction. Where the batch has a limit on its cost, no more is
    charged than was reserved, whatever the reason: that is what the limit was held against.
    """
    line = find_line(turn.pk) if turn.is_completion and is_temporary(turn.pk) else None
    with transaction.atomic() if line else nullcontext():
        is_ours, cost_micros = _settle(turn, outcome, line)
        if line and is_ours:
            keep_answer(line, turn, outcome, cost_micros=cost_micros)


def _settle(turn: Turn, outcome: Outcome | Turn, line: BatchLine | None) -> tuple[bool, int]:
    """Settle or release; return whether this call did it, and what is charged."""
    unpaid = [
        UnpaidRequest(request.provider, request.model, request.spent_micros)
        for request in read_unanswered(outcome.unanswered)
    ]
    if outcome.cost_micros is None or outcome.is_from_cache:
        return metering.release(turn.pk, unpaid), 0
    usage = Usage(
        input=outcome.input_tokens,
        output=outcome.output_tokens,
        cache_read=outcome.cache_read_tokens,
        cache_write=outcome.cache_write_tokens,
        source=outcome.usage_source,
    )
    stamp = read_stamp(outcome.price)
    cost_micros = ceil(outcome.cost_micros)  # a document may hold a fraction, whoever wrote it
    is_above = turn.max_cost_micros is not None and cost_micros > turn.max_cost_micros
    if is_above and line is not None and has_limit(line):
        cost_micros, is_above = turn.max_cost_micros or 0, False
    is_ours = metering.settle(
        turn.pk,
        cost_micros=cost_micros,
        usage=usage,
        label=outcome.model,
        supplier=outcome.provider,
        spent_micros=stamp.provider_micros if stamp else cost_micros,
        above_because="input" if is_above else None,
        unpaid=unpaid,
    )
    return is_ours, cost_micros


def close_queued(turn: Turn, *, status: str, error: str = "") -> bool:
    """Close a turn that no runner has claimed; return whether this call did."""
    return turn.status == Turn.Status.QUEUED and close_turn(turn, Outcome(status, error=error))


def can_continue(turn: Turn) -> bool:
    """Return whether the model may be asked to go on where the answer broke off."""
    if turn.requested_model == RECORDED.model.key:
        return False
    broke_off = turn.status in (Turn.Status.STOPPED, Turn.Status.INTERRUPTED) or turn.finish_reason == "length"
    return broke_off and bool(turn.answer.strip()) and turn.error not in ENDED_ON_PURPOSE
