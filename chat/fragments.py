"""Turns as HTML: the same fragment in a page and over the socket."""

from dataclasses import dataclass

from django.template.defaultfilters import filesizeformat, floatformat
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.safestring import SafeString

from accounts.moulds import Mould
from billing.entitlements import credits_of
from chat.attachments.using import decode_attached
from chat.errors import sentence_for
from chat.llm.catalog import find_model
from chat.turns.closing import can_continue
from history.models import Turn
from history.rendering import render_markdown

CAN_ASK_AGAIN = (Turn.Status.FAILED, Turn.Status.INTERRUPTED, Turn.Status.STOPPED)

_turn = Mould(
    "chat/_turn.html",
    "shown",
    *("id", "parent", "question", "reasoning", "answer", "text", "label", "missed", "sentence"),
    *("time", "day", "moment", "credits", "files"),
)


@dataclass(frozen=True, slots=True)
class ShownTurn:
    """A turn, and what a page shows of it."""

    turn: Turn
    html: SafeString


def show_turn(turn: Turn, *, text: str = "") -> ShownTurn:
    return ShownTurn(turn, turn_html(turn, text=text))


def turn_html(turn: Turn, *, text: str = "") -> SafeString:
    """Return the turn's HTML. `text` is what is there of an open turn, for a page that cannot follow it."""
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
        "files": "",
        "credits": "" if turn.cost_micros is None else floatformat(credits_of(turn.cost_micros), "-2g"),
    }
    if turn.attachments:
        values["files"] = files_html(turn)
    flags = {
        "status": turn.status,
        "is_open": turn.is_open,
        "is_at_length": turn.finish_reason == "length",
        "can_continue": can_continue(turn),
        "can_ask_again": turn.status in CAN_ASK_AGAIN,
    }
    return _turn.fill(values, flags)


def files_html(turn: Turn) -> SafeString:
    """Return the list of what was attached to a question."""
    files = [
        {
            "id": file.id,
            "is_image": file.kind == "image",
            "name": file.name,
            "pages": file.pages,
            "size": filesizeformat(file.size),
            **_preview_size(file.width, file.height),
        }
        for file in decode_attached(turn.attachments)
    ]
    return render_to_string("chat/_files.html", {"files": files})


def _preview_size(width: int, height: int) -> dict[str, str]:
    """Return what the page reserves for an image, so that it does not move when it comes."""
    longest = max(width, height, 1)
    scale = min(1.0, 320 / longest)
    return {"width": str(max(1, round(width * scale))), "height": str(max(1, round(height * scale)))}


def _label(key: str) -> str:
    """Return what people call a model; its key when it is in no catalogue any more."""
    model = find_model(key) if key else None
    return model.label if model else key
