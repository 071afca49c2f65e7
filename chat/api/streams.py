"""Answers over HTTP: server-sent events that can be resumed, or one JSON document when the turn is finished."""

import dataclasses
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from asgiref.sync import SyncToAsync
from django.db import connections
from django.http import StreamingHttpResponse
from django.utils import translation
from msgspec.structs import replace

from accounts.admission import Admission
from chat.api.open_streams import OpenStream
from chat.api.serializers import TurnSerializer
from chat.errors import AccessEnded
from chat.shown.events import TextEvent, encode_json, ended_event, started_event, text_event, waiting_event
from chat.turns.guests import guests
from chat.turns.log import Entry, EntryKind
from chat.turns.watching import Place, Watcher, watch
from core.errors import NotFound
from core.http import error_body
from core.threads import in_thread
from history import access
from history.models import Turn

LAST_EVENT_ID = "over"
"""The id of a stream's last event. A reader that comes back with it has everything."""
KEEP_ALIVE_SECONDS = 10


class _Content:
    """What a response sends. Django calls `close` when it is over, also when its content was never asked for."""

    def __init__(self, stream: OpenStream, parts: AsyncGenerator[bytes]) -> None:
        self.close = stream.close
        self._parts = parts

    def __aiter__(self) -> AsyncGenerator[bytes]:
        return self._parts


class EventStream(StreamingHttpResponse):
    """A response of server-sent events; `content` yields them, with their ends."""

    def __init__(self, content: AsyncIterable[bytes]) -> None:
        super().__init__(content, content_type="text/event-stream")
        self["X-Accel-Buffering"] = "no"  # nginx would hold events back

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Without the two generators that Django has around each part: they cost a quarter of sending it."""
        iterator: AsyncIterator[bytes] = self._iterator  # type: ignore[attr-defined]
        return iterator


def event_stream(turn: Turn, place: Place | None, stream: OpenStream) -> EventStream:
    """Return the turn's events from `place` as `text/event-stream` (WHATWG HTML, section 9.2)."""
    events = _events(turn, place or Place(), translation.get_language(), stream)
    return EventStream(_Content(stream, events))


def finished_turn(turn: Turn, stream: OpenStream) -> StreamingHttpResponse:
    """Return the turn as JSON once it is finished. Blanks before it keep the connection from looking dead."""
    document = _document(turn, translation.get_language(), stream)
    return StreamingHttpResponse(_Content(stream, document), content_type="application/json")


def parse_event_id(value: str) -> Place | None:
    """Return the place a `Last-Event-ID` names; None for one that is not ours: start over."""
    try:
        return Place(*(max(0, int(number)) for number in value.split("-", 2)))
    except ValueError:
        return None


async def _events(turn: Turn, place: Place, language: str, stream: OpenStream) -> AsyncGenerator[bytes]:
    # Where the turn was deleted or the reader is shut out, the stream just ends; who comes back is told why.
    with stream, suppress(NotFound, AccessEnded):
        async with followed(Watcher(turn.pk, replace(place)), turn, stream.admission) as batches:
            yield _frame(_without_html(started_event(turn, "")), "")
            async for entries in batches:
                if not entries:
                    yield b": still here\n\n"
                for entry in entries:
                    if entry.kind == EntryKind.END:
                        yield _frame(await in_thread(_end_of, turn, language), LAST_EVENT_ID)
                        continue
                    if entry.kind == EntryKind.WAITING:
                        yield _frame(waiting_event(turn.pk, entry.at), "")
                        continue
                    if entry.kind == EntryKind.TOOL_CALLS:  # they are in the turn, at its end
                        continue
                    if entry.gen != place.gen:
                        place = Place(entry.gen)
                    if entry.kind == EntryKind.TEXT:
                        place.text = entry.at + len(entry.text)
                    else:
                        place.reasoning = entry.at + len(entry.text)
                    yield _frame(text_event(entry), f"{place.gen}-{place.text}-{place.reasoning}")


async def _document(turn: Turn, language: str, stream: OpenStream) -> AsyncGenerator[bytes]:
    last_sent_at = time.monotonic()
    try:
        with stream:
            async with followed(Watcher(turn.pk, Place()), turn, stream.admission) as batches:
                async for _entries in batches:
                    if time.monotonic() - last_sent_at > KEEP_ALIVE_SECONDS:
                        yield b" "
                        last_sent_at = time.monotonic()
        document = (await in_thread(_end_of, turn, language))["turn"]
    except (NotFound, AccessEnded) as error:  # when the status had been sent already
        with translation.override(language):
            document = error_body(error)
    yield encode_json(document)


@asynccontextmanager
async def followed(watcher: Watcher, turn: Turn, admission: Admission) -> AsyncIterator[AsyncGenerator[list[Entry]]]:
    """Give what `watch` yields, without what a request that waits does not need. What lets its reader in may grow old
    meanwhile, as no stream is longer than an answer; when that is over for another reason, AccessEnded is raised."""
    _end_thread_of_request()
    guest = await guests().admit(dataclasses.replace(admission, expires_at=None), watcher.shut_out)
    try:
        async with aclosing(watch(turn, watcher=watcher)) as batches:
            yield batches
    finally:
        guests().dismiss(guest)


def _end_thread_of_request() -> None:
    """Let the thread that Django keeps for this request give its database connections back, and end.

    It would live as long as the response. Django starts another to close that.
    """
    context = SyncToAsync.thread_sensitive_context.get(None)
    if context is None:  # Django's test client: one thread for all
        return
    if executor := SyncToAsync.context_to_thread_executor.pop(context, None):
        executor.submit(connections.close_all)
        executor.shutdown(wait=False)


def _end_of(turn: Turn, language: str) -> dict[str, Any]:
    """Return the last event, with the saved turn in it. `language` is the request's, which ends before its stream."""
    saved = access.access_turn(turn.owner_id, turn.pk)
    with translation.override(language):
        return {**_without_html(ended_event(saved, "")), "turn": dict(TurnSerializer(saved).data)}


def _without_html(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event as API clients get it: they render for themselves."""
    return {name: value for name, value in event.items() if name != "html"}


def _frame(event: dict[str, Any] | TextEvent, event_id: str) -> bytes:
    kind = event["type"] if isinstance(event, dict) else event.type
    head = f"id: {event_id}\nevent: {kind}\ndata: " if event_id else f"event: {kind}\ndata: "
    return head.encode() + encode_json(event) + b"\n\n"
