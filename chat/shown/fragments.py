"""Turns as HTML: the same in a page and over the socket."""

import datetime as dt
from functools import lru_cache

from django.template.defaultfilters import floatformat
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.formats import date_format, get_format
from django.utils.safestring import SafeString
from django.utils.translation import get_language

from billing.entitlements import credits_of
from chat.attachments.binding import decode_attached
from chat.attachments.extract import PREVIEW_SIDE_PIXELS
from chat.errors import OF_THIS_SITE
from chat.llm.catalog import RECORDED, find_model
from chat.llm.difficulty import Route, route_label
from chat.llm.pricing import read_stamp
from chat.llm.selection import AUTO
from chat.shown.costs import first_token_ms, tokens_per_second
from chat.shown.sentences import charge_sentence, error_sentence
from chat.turns.closing import can_continue
from core.compiled_fragments import CompiledFragment
from core.sizes import readable_size
from history.branches import Siblings
from history.models import Turn
from history.rendering import RenderingBudget, render_markdown
from history.sharing import Description
from history.temporary import is_temporary

COST_VALUES = (
    *("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "exact_credits"),
    *("first_token_seconds", "tokens_per_second", "price_date"),
    *("raw_context_tokens", "raw_output_tokens", "model_key", "ended_at"),
)
"""What `_turn_costs.html` shows, and what static/js/estimate.js reads there (the last line)."""

EXPLAINED_FAILURES = ("context_exceeded", "rate_limited", "timeout")
"""Why another model answered, where the page says more than that the first one was unavailable: error codes."""
STATUSES_TO_ASK_AGAIN = (Turn.Status.FAILED, Turn.Status.INTERRUPTED, Turn.Status.STOPPED)

UNKNOWN_FIGURE = "–"

_turn = CompiledFragment(
    "chat/_turn.html",
    "shown",
    *("id", "parent", "question", "reasoning", "answer", "text", "label", "failed_label"),
    *("error_sentence", "blamed_label", "charge_sentence"),
    *("time", "date_and_time", "asked_at", "credits", "route", "thinking_time", "siblings", "files", "duration"),
    *COST_VALUES,
)
_siblings = CompiledFragment("chat/_siblings.html", "siblings", "number", "count", "previous", "next")


def turn_html(
    turn: Turn, *, text: str = "", siblings: Siblings | None = None, budget: RenderingBudget | None = None
) -> SafeString:
    """Return the turn's HTML. `text` is what an open turn has written so far, for a page that cannot follow it;
    `budget` is that of the page."""
    asked_at = timezone.localtime(turn.created_at)
    is_recorded = turn.requested_model == RECORDED.model.key
    is_from_cache = turn.is_from_cache and not is_recorded
    label = _label(_answerer_of(turn))
    values = {
        "id": str(turn.pk),
        "parent": str(turn.parent_id or ""),
        "question": turn.question,
        "reasoning": turn.reasoning,
        "answer": render_markdown(turn.answer, str(turn.pk), budget) if turn.answer else "",
        "text": text,
        "label": label,
        "failed_label": _label(turn.instead_of),
        "error_sentence": error_sentence(turn),
        "blamed_label": "" if turn.error in OF_THIS_SITE or not turn.error else label,
        "charge_sentence": charge_sentence(turn),
        "time": date_format(asked_at, "TIME_FORMAT"),
        "date_and_time": "" if turn.is_open else date_format(asked_at, "SHORT_DATETIME_FORMAT"),
        "asked_at": asked_at.isoformat(),
        "files": _files_html(turn) if turn.attachments else "",
        "credits": "" if turn.cost_micros is None else floatformat(credits_of(turn.cost_micros), "-2g"),
        **_cost_values(turn),
        "route": route_label(turn.route),
        "thinking_time": _duration(turn.reasoning_ms),
        "duration": _seconds_taken(turn),
        "siblings": siblings_html(siblings) if siblings else "",
    }
    flags = {
        "status": turn.status,
        "is_open": turn.is_open,
        "is_cut_at_limit": turn.finish_reason == "length" and not turn.error,
        "can_continue": can_continue(turn),
        "is_saving_credits": turn.route == Route.LAST_CREDITS,
        "is_estimated": turn.usage_source == "estimated",
        "can_ask_again": (turn.status in STATUSES_TO_ASK_AGAIN or is_from_cache) and not is_temporary(turn.pk),
        "is_temporary": is_temporary(turn.pk),
        "is_from_cache": is_from_cache,
        "is_recorded": is_recorded,
        "is_auto": turn.requested_model == AUTO and bool(turn.model),
        "failover_reason": turn.instead_because if turn.instead_because in EXPLAINED_FAILURES else "",
    }
    return _turn.fill(values, flags)


def description_of(turn: Turn) -> Description:
    """Return what a share of the turn says beside its texts."""
    return Description(_label(_answerer_of(turn)), [file.name for file in decode_attached(turn.attachments)])


def _cost_values(turn: Turn) -> dict[str, str]:
    """Return what an answer took, as the active language writes it; empty texts while nothing was used.

    Else none of them is empty: the fragment would keep one variant for each combination of empty and filled values.
    """
    if not turn.usage_source or turn.is_open:
        return dict.fromkeys(COST_VALUES, "")
    stamp = read_stamp(turn.price)
    waited_ms, speed = first_token_ms(turn), tokens_per_second(turn)
    as_of = stamp.as_of if stamp else ""
    price_date = dt.date.fromisoformat(as_of) if as_of else timezone.localdate(turn.created_at)
    return {
        "input_tokens": _figure(turn.input_tokens),
        "cached_tokens": _figure(turn.cache_read_tokens),
        "output_tokens": _figure(turn.output_tokens),
        "reasoning_tokens": _figure(turn.reasoning_tokens),
        "exact_credits": _figure(credits_of(turn.cost_micros or 0), 3),
        "first_token_seconds": UNKNOWN_FIGURE if waited_ms is None else _figure(waited_ms / 1000, 1),
        "tokens_per_second": UNKNOWN_FIGURE if speed is None else _figure(speed),
        "price_date": _date(price_date, get_language()),
        "raw_context_tokens": str(turn.input_tokens + turn.output_tokens - turn.reasoning_tokens),
        "raw_output_tokens": str(turn.output_tokens),
        "model_key": turn.model,
        "ended_at": (turn.completed_at or turn.created_at).isoformat(),
    }


def _figure(number: float, decimals: int = 0) -> str:
    """Return a number as the active language writes it, in a tenth of the time Django's `number_format` takes."""
    figure = f"{number:,.{decimals}f}"
    if decimals:
        figure = figure.rstrip("0").rstrip(".")
    return figure.translate(_separators(get_language()))


@lru_cache
def _separators(_language: str | None) -> dict[int, str]:
    return {ord(","): get_format("THOUSAND_SEPARATOR"), ord("."): get_format("DECIMAL_SEPARATOR")}


@lru_cache
def _date(date: dt.date, _language: str | None) -> str:
    return date_format(date, "SHORT_DATE_FORMAT")


def siblings_html(siblings: Siblings) -> SafeString:
    values = {
        "number": str(siblings.number),
        "count": str(len(siblings.ids)),
        "previous": str(siblings.previous or ""),
        "next": str(siblings.next or ""),
    }
    return _siblings.fill(values, {})


def _seconds_taken(turn: Turn) -> str:
    """Return how long a turn took from its question to its end; empty while it is open."""
    if turn.completed_at is None:
        return ""
    return f"{_figure((turn.completed_at - turn.created_at).total_seconds(), 1)} s"


def _duration(milliseconds: int) -> str:
    """Return a duration in units that are the same in every language; empty for none."""
    if not milliseconds:
        return ""
    minutes, seconds = divmod(max(1, round(milliseconds / 1_000)), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _files_html(turn: Turn) -> SafeString:
    """Return the list of the files attached to a question."""
    files = [
        {
            "id": file.id,
            "is_image": file.kind == "image",
            "name": file.name,
            "pages": file.pages,
            "size": readable_size(file.size),
            **_preview_size(file.width, file.height),
        }
        for file in decode_attached(turn.attachments)
    ]
    return render_to_string("chat/_files.html", {"files": files})


def _preview_size(width: int, height: int) -> dict[str, str]:
    """Return the space the page reserves for an image, so that nothing moves when it arrives."""
    scale = min(1.0, PREVIEW_SIDE_PIXELS / max(width, height, 1))
    return {"width": str(max(1, round(width * scale))), "height": str(max(1, round(height * scale)))}


def _answerer_of(turn: Turn) -> str:
    """Return the key of the model that answered or failed; where it came to none, of the one that was named."""
    is_named = not turn.is_open and turn.requested_model not in (AUTO, RECORDED.model.key)
    return turn.model or (turn.requested_model if is_named else "")


def _label(key: str) -> str:
    """Return the model's label; its key if the catalogue does not have it any more."""
    model = find_model(key) if key else None
    return str(model.label) if model else key
