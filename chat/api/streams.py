"""Answers over HTTP: server-sent events that can be resumed, or one JSON document when the turn is finished."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from django.http import StreamingHttpResponse
from django.utils import translation

from chat.api.serializers import TurnSerializer
from chat.socket import vocabulary
from chat.turns.log import EntryKind
from chat.turns.watching import Place, watch
from core.threads import in_thread
from history import access
from history.models import Turn

OVER = "over"
"""The id of the last event. A reader that comes back with it has everything."""
KEEP_ALIVE_SECONDS = 10


def event_stream(turn: Turn, place: Place | None) -> StreamingHttpResponse:
    """Return the turn's events from `place` as `text/event-stream` (WHATWG HTML, section 9.2)."""
    response = StreamingHttpResponse(
        _events(turn, place or Place(), _saved_in_language()), content_type="text/event-stream"
    )
    response["Cache-Control"] = "no-cache"
    response["X-Accel-Buffering"] = "no"  # nginx would hold events back
    return response


def finished_turn(turn: Turn) -> StreamingHttpResponse:
    """Return the turn as JSON once it is finished. Blanks before it keep the connection from looking dead."""
    return StreamingHttpResponse(_document(turn, _saved_in_language()), content_type="application/json")


def parse_event_id(value: str) -> Place | None:
    """Return the place a `Last-Event-ID` names; None for one that is not ours: start over."""
    try:
        return Place(*(max(0, int(number)) for number in value.split("-", 2)))
    except ValueError:
        return None


async def _events(turn: Turn, place: Place, saved: "Callable[[Turn], dict[str, Any]]") -> AsyncGenerator[bytes]:
    yield _event(vocabulary.started(turn, ""), "")
    async with aclosing(watch(turn, place)) as batches:
        async for entries in batches:
            if not entries:
                yield b": still here\n\n"
            for entry in entries:
                if entry.kind == EntryKind.END:
                    yield _event(await in_thread(_ended, turn, saved), OVER)
                    continue
                if entry.kind == EntryKind.WAITING:
                    yield _event_bytes(vocabulary.waiting(turn.pk, entry.at), "")
                    continue
                if entry.gen != place.gen:
                    place = Place(entry.gen)
                if entry.kind == EntryKind.TEXT:
                    place.text = entry.at + len(entry.text)
                else:
                    place.reasoning = entry.at + len(entry.text)
                event_id = f"{place.gen}-{place.text}-{place.reasoning}"
                yield _event_bytes(vocabulary.text_event(entry), event_id)


async def _document(turn: Turn, saved: "Callable[[Turn], dict[str, Any]]") -> AsyncGenerator[bytes]:
    last = time.monotonic()
    async with aclosing(watch(turn)) as batches:
        async for _entries in batches:
            if time.monotonic() - last > KEEP_ALIVE_SECONDS:
                yield b" "
                last = time.monotonic()
    yield vocabulary.encode(await in_thread(_saved_turn, turn, saved))


def _saved_in_language() -> "Callable[[Turn], dict[str, Any]]":
    """Return how to show a turn in the language of this request: the stream outlives the request's own."""
    language = translation.get_language()

    def show(turn: Turn) -> dict[str, Any]:
        with translation.override(language):
            shape = dict(TurnSerializer(turn).data)
            return {**vocabulary.ended(turn, ""), "turn": shape}

    return show


def _ended(turn: Turn, saved: "Callable[[Turn], dict[str, Any]]") -> dict[str, Any]:
    return saved(access.access_turn(turn.owner_id, turn.pk))


def _saved_turn(turn: Turn, saved: "Callable[[Turn], dict[str, Any]]") -> dict[str, Any]:
    shape: dict[str, Any] = _ended(turn, saved)["turn"]
    return shape


def _event(event: dict[str, Any], event_id: str) -> bytes:
    del event["html"]  # pages have it; an API client renders for itself
    return _event_bytes(event, event_id)


def _event_bytes(event: Any, event_id: str) -> bytes:
    kind = event["type"] if isinstance(event, dict) else event.type
    head = f"id: {event_id}\nevent: {kind}\ndata: " if event_id else f"event: {kind}\ndata: "
    return head.encode() + vocabulary.encode(event) + b"\n\n"
