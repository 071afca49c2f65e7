"""Turns as HTML: the same fragment in a page and over the socket."""

from collections.abc import Iterable
from dataclasses import dataclass

from django.template.defaultfilters import floatformat
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.functional import Promise
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from accounts.moulds import Mould
from billing.entitlements import credits_of
from chat.errors import sentence_for
from chat.llm.catalog import find_model
from chat.llm.selection import AUTO
from chat.turns.closing import can_continue
from history.models import Turn
from history.rendering import render_markdown

TOLD_APART = ("context_exceeded", "rate_limited", "timeout")
"""Why somebody else answered, where there is more to say than that the first was unavailable."""
CAN_ASK_AGAIN = (Turn.Status.FAILED, Turn.Status.INTERRUPTED, Turn.Status.STOPPED)

_turn = Mould(
    "chat/_turn.html",
    "shown",
    *("id", "parent", "question", "reasoning", "answer", "text", "label", "missed", "sentence"),
    *("time", "day", "moment", "credits", "route", "thought", "beside"),
)

ROUTES: dict[str, Promise] = {
    "short": _("short question"),
    "code": _("code"),
    "math": _("mathematics"),
    "long": _("long text"),
    "analysis": _("analysis"),
    "image": _("has an image"),
    "follow_up": _("same model as before"),
    "low_credits": _("few credits left"),
    "only_one": _("the only one available"),
}
"""Why Auto chose a model."""


@dataclass(frozen=True, slots=True)
class ShownTurn:
    """A turn, and what a page shows of it."""

    turn: Turn
    html: SafeString


def show_turn(turn: Turn, *, text: str = "", beside: Iterable[Turn] = ()) -> ShownTurn:
    return ShownTurn(turn, turn_html(turn, text=text, beside=beside))


def turn_html(turn: Turn, *, text: str = "", beside: Iterable[Turn] = ()) -> SafeString:
    """Return the turn's HTML. `text` is what is there of an open turn, for a page that cannot follow it; `beside` are
    earlier answers to its question."""
    asked = timezone.localtime(turn.created_at)
    values = {
        "id": str(turn.pk),
        "parent": str(turn.parent_id or ""),
        "question": turn.question,
        "reasoning": turn.reasoning,
        "answer": render_markdown(turn.answer) if turn.answer else "",
        "text": text,
        "label": _label(turn.model),
        "missed": _label(turn.instead_of),
        "sentence": sentence_for(turn.error),
        "time": date_format(asked, "TIME_FORMAT"),
        "day": "" if turn.is_open else date_format(asked, "SHORT_DATETIME_FORMAT"),
        "moment": asked.isoformat(),
        "credits": "" if turn.cost_micros is None else floatformat(credits_of(turn.cost_micros), "-2g"),
        "route": route_label(turn.route),
        "thought": _duration(turn.reasoning_ms),
        "beside": format_html_join("", "{}", ((_earlier_answer(turn),) for turn in beside)),
    }
    flags = {
        "status": turn.status,
        "is_open": turn.is_open,
        "is_at_length": turn.finish_reason == "length",
        "can_continue": can_continue(turn),
        "can_ask_again": turn.status in CAN_ASK_AGAIN,
        "is_auto": turn.requested_model == AUTO and bool(turn.model),
        "because": turn.instead_because if turn.instead_because in TOLD_APART else "",
    }
    return _turn.fill(values, flags)


def route_label(route: str) -> str:
    """Return why Auto chose, for people; empty for a code nobody knows."""
    return str(ROUTES.get(route, ""))


def _earlier_answer(turn: Turn) -> SafeString:
    """Return an answer another one has taken the place of, folded."""
    shown = {"label": _label(turn.model), "answer": render_markdown(turn.answer)}
    return render_to_string("chat/_earlier_answer.html", shown)


def _duration(milliseconds: int) -> str:
    """Return a time as people read it, in units every language knows; empty for none."""
    if not milliseconds:
        return ""
    minutes, seconds = divmod(max(1, round(milliseconds / 1_000)), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _label(key: str) -> str:
    """Return what people call a model; its key when it is in no catalogue any more."""
    model = find_model(key) if key else None
    return model.label if model else key
