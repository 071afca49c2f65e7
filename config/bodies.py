"""Limits the size of request bodies, and of all that are on disk. Django alone would write a whole body there before it
looked at a byte, or at who sends it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from django.conf import settings

from accounts.http import network_in
from core.loops import PerLoop

AsgiMessage: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[AsgiMessage]]
Send: TypeAlias = Callable[[AsgiMessage], Awaitable[None]]
App: TypeAlias = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

TOO_LARGE = "body_too_large"
"""A key in the ASGI scope of a request whose body is too long: "file" where files may be sent, "import" where
conversations may, "batch" where batches may, "notification" where a gateway's view answers for itself, "crowd" where
the process holds too much already, else "body"."""
ON_DISK_BYTES = 500_000_000
"""Of bodies that a process holds beyond their first FILE_UPLOAD_MAX_MEMORY_SIZE. A network has half of that; where more
send at the same time, a third, a quarter and so on, so that those who came first keep nobody out."""
LENGTHS = (b"content-length", b"transfer-encoding")
"""Without either, a request has no body (RFC 9112, section 6.3)."""
FORM_BYTES = 100_000
"""What a form may add to its files: names and boundaries. A question's text may have DATA_UPLOAD_MAX_MEMORY_SIZE."""

UPLOADS = "/api/v1/attachments"
IMPORTS = ("/api/v1/imports", "/settings/import-export")
BATCHES = ("/api/v1/batches", "/settings/batches")
CONVERSATIONS = "/c/"
COMPLETIONS = "/v1/chat/completions"
COMPLETION_BYTES = 12_000_000
"""A whole conversation, with its images in base64."""
NOTIFICATIONS = ("/stripe/webhook/", "/webhooks/mercadopago/")
NOTIFICATION_BYTES = 512 * 1024


def limit_bodies(app: App) -> App:
    """Return the application with limited bodies: the rest of one that is too long reads as empty, and TOO_LARGE is in
    the scope.

    If the request states its length, nothing is read; else reading ends at the limit. Then the connection is closed.
    """

    async def handle(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if not any(name in LENGTHS for name, _value in scope["headers"]):  # no body, whatever the method
            await app(scope, receive, send)
            return
        max_bytes, kind = _limit_of(scope["path"])
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if length.isdigit() and len(length) < 20 and int(length) <= max_bytes:
            size = 0
        else:
            size = max_bytes + 1
            scope[TOO_LARGE] = kind
        is_over = False
        network, on_disk = network_in(scope), 0

        async def read() -> AsgiMessage:
            nonlocal size, is_over, on_disk
            if is_over:
                await asyncio.Event().wait()  # for the client to disconnect: this task is cancelled with the request
            if TOO_LARGE in scope:
                is_over = True
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await receive()
            size += len(message.get("body", b""))
            if size > max_bytes:
                scope[TOO_LARGE] = kind
            elif (more := size - settings.FILE_UPLOAD_MAX_MEMORY_SIZE - on_disk) > 0:
                on_disk += more
                if not _take_disk(network, more):
                    scope[TOO_LARGE] = "crowd"
            if TOO_LARGE in scope:
                is_over = True
                return {"type": "http.request", "body": b"", "more_body": False}
            return message

        async def answer(message: AsgiMessage) -> None:
            if TOO_LARGE in scope and message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        try:
            await app(scope, read, answer)
        finally:
            _give_disk_back(network, on_disk)

    return handle


_on_disk: PerLoop[Counter[str]] = PerLoop(Counter)
"""Bytes of each network."""


def _take_disk(network: str, size: int) -> bool:
    """Count what is written; return whether the network may write it."""
    on_disk = _on_disk.get()
    on_disk[network] += size
    return on_disk[network] <= ON_DISK_BYTES / (len(on_disk) + 1)


def _give_disk_back(network: str, size: int) -> None:
    on_disk = _on_disk.get()
    on_disk[network] -= size
    if not on_disk[network]:
        del on_disk[network]


def _limit_of(path: str) -> tuple[int, str]:
    """Return the most bytes a body sent to this path may have, and its kind: see TOO_LARGE."""
    if path.rstrip("/") == UPLOADS:
        return settings.ATTACHMENT_BYTES + FORM_BYTES, "file"
    if path.rstrip("/") in IMPORTS:
        return settings.IMPORT_BYTES + FORM_BYTES, "import"
    if path.rstrip("/") in BATCHES:
        return settings.BATCH_BYTES + FORM_BYTES, "batch"
    if path.rstrip("/") == COMPLETIONS:
        return COMPLETION_BYTES, "body"
    if path.startswith(CONVERSATIONS):
        return settings.ATTACHMENTS_BYTES + settings.DATA_UPLOAD_MAX_MEMORY_SIZE + FORM_BYTES, "file"
    if path.startswith(NOTIFICATIONS):
        return NOTIFICATION_BYTES, "notification"
    return settings.DATA_UPLOAD_MAX_MEMORY_SIZE + FORM_BYTES, "body"
