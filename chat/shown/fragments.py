"""Turns as HTML: the same fragment in a page and over the socket."""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from django.template.defaultfilters import filesizeformat, floatformat
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.formats import date_format, get_format
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import get_language

from billing.entitlements import credits_of
from chat.attachments.binding import decode_attached
from chat.errors import sentence_for
from chat.llm.catalog import find_model
from chat.llm.difficulty import Route, route_label
from chat.llm.pricing import read_stamp
from chat.llm.selection import AUTO
from chat.shown.costs import first_token_ms, tokens_per_second
from chat.turns.closing import can_continue
from core.compiled_fragments import CompiledFragment
from history.models import Turn
from history.rendering import render_markdown

COSTS = (
    *("tokens_in", "tokens_cached", "tokens_out", "tokens_thought", "cost", "first_token", "speed", "priced"),
    *("context", "written", "model", "ended"),
)
"""What `_turn_costs.html` shows, and what static/js/estimate.js reads there."""

TOLD_APART = ("context_exceeded", "rate_limited", "timeout")
"""Why somebody else answered, where there is more to say than that the first was unavailable."""
CAN_ASK_AGAIN = (Turn.Status.FAILED, Turn.Status.INTERRUPTED, Turn.Status.STOPPED)

NOT_KNOWN = "–"

_turn = CompiledFragment(
    "chat/_turn.html",
    "shown",
    *("id", "parent", "question", "reasoning", "answer", "text", "label", "missed", "sentence"),
    *("time", "day", "moment", "credits", "route", "thought", "beside", "files"),
    *COSTS,
)


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
        "files": "",
        "credits": "" if turn.cost_micros is None else floatformat(credits_of(turn.cost_micros), "-2g"),
        **_costs(turn),
        "route": route_label(turn.route),
        "thought": _duration(turn.reasoning_ms),
        "beside": format_html_join("", "{}", ((_earlier_answer(turn),) for turn in beside)),
    }
    if turn.attachments:
        values["files"] = files_html(turn)
    flags = {
        "status": turn.status,
        "is_open": turn.is_open,
        "is_at_length": turn.finish_reason == "length",
        "can_continue": can_continue(turn),
        "is_saving": turn.route == Route.LAST_CREDITS,
        "is_estimated": turn.usage_source == "estimated",
        "can_ask_again": turn.status in CAN_ASK_AGAIN or turn.is_from_cache,
        "is_from_cache": turn.is_from_cache,
        "is_auto": turn.requested_model == AUTO and bool(turn.model),
        "because": turn.instead_because if turn.instead_because in TOLD_APART else "",
    }
    return _turn.fill(values, flags)


def _costs(turn: Turn) -> dict[str, str]:
    """Return what an answer took, in the active language's figures; empty texts while nothing was used.

    None of them is empty else, or there would be a mould for each that is and is not.
    """
    if not turn.usage_source or turn.is_open:
        return dict.fromkeys(COSTS, "")
    stamp = read_stamp(turn.price)
    waited, speed = first_token_ms(turn), tokens_per_second(turn)
    as_of = stamp.as_of if stamp else ""
    reckoned = dt.date.fromisoformat(as_of) if as_of else timezone.localdate(turn.created_at)
    return {
        "tokens_in": _figure(turn.input_tokens),
        "tokens_cached": _figure(turn.cache_read_tokens),
        "tokens_out": _figure(turn.output_tokens),
        "tokens_thought": _figure(turn.reasoning_tokens),
        "cost": _figure(credits_of(turn.cost_micros or 0), 3),
        "first_token": NOT_KNOWN if waited is None else _figure(waited / 1000, 1),
        "speed": NOT_KNOWN if speed is None else _figure(speed),
        "priced": _day(reckoned, get_language()),
        "context": str(turn.input_tokens + turn.output_tokens - turn.reasoning_tokens),
        "written": str(turn.output_tokens),
        "model": turn.model,
        "ended": (turn.completed_at or turn.created_at).isoformat(),
    }


def _figure(number: float, decimals: int = 0) -> str:
    """Return a number as the active language writes it, in a tenth of the time `number_format` takes."""
    shown = f"{number:,.{decimals}f}"
    if decimals:
        shown = shown.rstrip("0").rstrip(".")
    return shown.translate(_separators(get_language()))


@lru_cache
def _separators(_language: str | None) -> dict[int, str]:
    return {ord(","): get_format("THOUSAND_SEPARATOR"), ord("."): get_format("DECIMAL_SEPARATOR")}


@lru_cache
def _day(day: dt.date, _language: str | None) -> str:
    return date_format(day, "SHORT_DATE_FORMAT")


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
