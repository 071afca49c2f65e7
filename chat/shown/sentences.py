"""What is said of a turn that ended, in sentences, as pages, events and the API show them."""

from django.utils.translation import gettext_lazy as _

from chat.errors import sentence_for
from chat.llm.catalog import find_model
from chat.turns.closing import can_continue
from history.models import Turn

CHARGED_FOR_READING = _("The charge is for reading your question.")
CHARGED_FOR_WORK = _(
    "The charge is for reading your question, and for what the model thought or tried without writing an answer."
)
CHARGED_FOR_STOPPED = _("You stopped after your question had been sent to the model: the charge is for reading it.")
CHARGED_FOR_STOPPED_THOUGHT = _(
    "You stopped after your question had been sent to the model: the charge is for reading it, and for an estimate of "
    "what the model had thought by then."
)
CHARGED_NOTHING = _("Nothing was charged.")
CHARGED_MORE = _("It cost more than was announced: the question was longer than estimated.")


def error_sentence(turn: Turn) -> str:
    """Return why the answer failed or broke off, and a way on that is open; empty where it did not."""
    if turn.error == "thought_too_long":
        model = find_model(turn.model) if turn.model else None
        return sentence_for(turn.error, is_way_open=bool(model and model.effort_levels))
    return sentence_for(turn.error, is_way_open=can_continue(turn))


def charge_sentence(turn: Turn) -> str:
    """Return what was paid for where there is no answer to read, and why more was paid than was reserved; empty for any
    other turn."""
    if turn.is_open:
        return ""
    sentences = []
    if not turn.answer.strip():
        sentences.append(_charged_without_answer(turn))
    if turn.max_cost_micros is not None and (turn.cost_micros or 0) > turn.max_cost_micros:
        sentences.append(CHARGED_MORE)
    return " ".join(map(str, sentences))


def _charged_without_answer(turn: Turn) -> object:
    if not turn.cost_micros:
        return CHARGED_NOTHING
    if turn.status == Turn.Status.STOPPED:
        return CHARGED_FOR_STOPPED_THOUGHT if turn.output_tokens else CHARGED_FOR_STOPPED
    return CHARGED_FOR_WORK if turn.output_tokens else CHARGED_FOR_READING
