"""How much of a request's body is read. Django would write all of it to a disk before it looked at the first byte."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from django.conf import settings

AsgiMessage: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[AsgiMessage]]
Send: TypeAlias = Callable[[AsgiMessage], Awaitable[None]]
App: TypeAlias = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

TOO_LARGE = "body_too_large"
"""In the scope of a request whose body was not read to its end: "file" where files may be sent, else "body"."""
LENGTHS = (b"content-length", b"transfer-encoding")
"""Without either, a request has no body (RFC 9112, section 6.3)."""
FORM_BYTES = 100_000
"""What a form may add to its files: names, boundaries; the question's text has DATA_UPLOAD_MAX_MEMORY_SIZE."""

UPLOADS = "/api/v1/attachments"
CONVERSATIONS = "/c/"


def limited(app: App) -> App:
    """Return the application, which is shown an empty rest of a body that is too long, and TOO_LARGE in the scope.

    Where the length is said, nothing is read; else reading ends at the limit. Then the connection is closed.
    """

    async def handle(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if not any(name in LENGTHS for name, _value in scope["headers"]):  # no body, whatever the method
            await app(scope, receive, send)
            return
        most, what = _limit(scope["path"])
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if length.isdigit() and len(length) < 20 and int(length) <= most:
            size = 0
        else:
            size = most + 1
            scope[TOO_LARGE] = what
        is_over = False

        async def read() -> AsgiMessage:
            nonlocal size, is_over
            if is_over:
                await asyncio.Event().wait()  # whoever listens for the reader's leaving is cancelled with the request
            if TOO_LARGE in scope:
                is_over = True
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                scope[TOO_LARGE] = what
                is_over = True
                return {"type": "http.request", "body": b"", "more_body": False}
            return message

        async def answer(message: AsgiMessage) -> None:
            if TOO_LARGE in scope and message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        await app(scope, read, answer)

    return handle


def _limit(path: str) -> tuple[int, str]:
    """Return how many bytes a body sent to this path may have, and what it is called."""
    if path.rstrip("/") == UPLOADS:
        return settings.ATTACHMENT_BYTES + FORM_BYTES, "file"
    if path.startswith(CONVERSATIONS):
        return settings.ATTACHMENTS_BYTES + settings.DATA_UPLOAD_MAX_MEMORY_SIZE + FORM_BYTES, "file"
    return settings.DATA_UPLOAD_MAX_MEMORY_SIZE + FORM_BYTES, "body"
