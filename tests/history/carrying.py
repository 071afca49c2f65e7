"""Imports and exports for tests: a storage of a test's own, uploads, and what a worker would do with them."""

import json
from collections.abc import AsyncIterator
from typing import Any, cast
from uuid import UUID

from asgiref.sync import async_to_sync
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import StreamingHttpResponse

from history.models import Conversation, Import, Turn
from history.transfer import importing


def imported(owner_id: int, data: bytes, name: str = "conversations.json") -> Import:
    """Import a file and return what came of it."""
    row = importing.begin_import(owner_id, SimpleUploadedFile(name, data))
    work_off(row)
    return Import.objects.get(pk=row.pk)


def work_off(row: Import) -> None:
    """Do what workers do until nothing is left."""
    while not importing.go_on_with(row.pk):
        pass


def body_of(response: Any) -> bytes:
    """Return all that a stream sends."""

    async def collect() -> bytes:
        parts = cast("AsyncIterator[bytes]", response.streaming_content)
        return b"".join([part async for part in parts])

    assert isinstance(response, StreamingHttpResponse), response
    return async_to_sync(collect)()


def text_of(response: Any) -> str:
    return body_of(response).decode()


def json_of(response: Any) -> Any:
    return json.loads(body_of(response))


def tree_of(conversation_id: UUID) -> list[tuple[str, str, int | None]]:
    """Return the turns as question, answer, and the place of the parent among them."""
    turns = list(Turn.objects.filter(conversation_id=conversation_id).order_by("seq"))
    places = {turn.pk: place for place, turn in enumerate(turns)}
    return [(turn.question, turn.answer, places.get(turn.parent_id)) for turn in turns]


def everything() -> tuple[int, int]:
    return Conversation.objects.count(), Turn.objects.count()
