"""Turns and conversations as HTML: the same fragments in a page and over the socket."""

from dataclasses import dataclass

from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from chat.errors import sentence_for
from chat.llm.catalog import find_model
from chat.turns.closing import can_continue
from history.models import Conversation, Turn
from history.rendering import render_markdown


@dataclass(frozen=True, slots=True)
class ShownTurn:
    """A turn as its template shows it. `text` is what is there of an open turn, for a page that cannot follow it."""

    turn: Turn
    answer_html: SafeString
    model_label: str
    sentence: str
    can_continue: bool
    text: str = ""

    @property
    def cost_credits(self) -> float | None:
        return None if self.turn.cost_micros is None else self.turn.cost_micros / 1_000

    @property
    def can_ask_again(self) -> bool:
        return self.turn.status in (Turn.Status.FAILED, Turn.Status.INTERRUPTED, Turn.Status.STOPPED)


def show_turn(turn: Turn, *, text: str = "") -> ShownTurn:
    model = find_model(turn.model) if turn.model else None
    label = model.label if model else turn.model
    return ShownTurn(turn, render_markdown(turn.answer), label, sentence_for(turn.error), can_continue(turn), text=text)


def turn_html(turn: Turn, *, text: str = "") -> str:
    return render_to_string("chat/_turn.html", {"shown": show_turn(turn, text=text)})


def conversation_html(conversation: Conversation) -> str:
    return render_to_string("history/_conversation.html", {"conversation": conversation})
