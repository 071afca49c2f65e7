"""Sends what is exported, in parts: in memory is a page of turns, or a piece of a file."""

import datetime as dt
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import IO

from django.http import StreamingHttpResponse
from django.utils import timezone, translation
from django.utils.http import content_disposition_header
from django.utils.text import slugify

from core.fair_line import FairLine
from core.loops import PerLoop
from core.threads import in_thread
from history.models import Conversation
from history.transfer.writing import CONTENT_TYPES, ENDINGS, Form, write

PIECE_BYTES = 1 << 20
MOST_WAITING = 32
"""Conversations that one person takes along at once."""

_lines = PerLoop(lambda: FairLine(1, 1, MOST_WAITING))
"""One part is made at a time: sockets need the threads, and SQLite has two."""


def conversation_response(conversation: Conversation, form: Form) -> StreamingHttpResponse:
    """Return the conversation as a file to keep, or as a page to print."""
    parts = _in_threads(
        write(conversation, form),
        str(conversation.owner_id),
        translation.get_language(),
        timezone.get_current_timezone(),
    )
    response = StreamingHttpResponse(parts, content_type=CONTENT_TYPES[form])
    if form != "print":
        name = f"{slugify(conversation.title)[:60] or conversation.pk}.{ENDINGS[form]}"
        response["Content-Disposition"] = content_disposition_header(True, name) or "attachment"
        response["X-Content-Type-Options"] = "nosniff"
    return response


def zip_response(file: IO[bytes], name: str, size: int) -> StreamingHttpResponse:
    """Return a stored zip as a file to keep. The file is closed when it was sent, or nobody takes it."""
    response = StreamingHttpResponse(_pieces(file), content_type="application/zip")
    response["Content-Disposition"] = content_disposition_header(True, name) or "attachment"
    response["Content-Length"] = str(size)
    return response


async def _in_threads(parts: Iterator[str], who: str, language: str, zone: dt.tzinfo) -> AsyncGenerator[str]:
    """Yield the parts, each made in a thread when it is this person's turn, in the language and time zone of a request
    that is over by then."""

    def make(take: Callable[[], str | None]) -> str | None:
        with translation.override(language), timezone.override(zone):
            return take()

    line = _lines.get()
    while True:
        await line.enter(who)
        try:
            part = await in_thread(make, lambda: next(parts, None))
        finally:
            line.leave(who)
        if part is None:
            return
        yield part


async def _pieces(file: IO[bytes]) -> AsyncGenerator[bytes]:
    try:
        while piece := await in_thread(file.read, PIECE_BYTES):
            yield piece
    finally:
        file.close()
