"""Streams of the API, without a server: requests to the whole ASGI application in this loop, each until it is left."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from accounts.api.views import tokens_for
from accounts.models import User
from core.threads import in_thread

PATIENCE_SECONDS = 30


class HttpStream:
    """One request as a server hands it over: `status`, and `body` as far as it has come."""

    def __init__(
        self,
        access: str,
        path: str,
        asked: dict[str, Any] | None = None,
        *,
        root: str = "/api/v1/",
        idempotency_key: str = "",
    ) -> None:
        self.status = 0
        self.body = b""
        self.is_stuck = False  # whether nothing can be sent to it, as when its buffer is full
        self._access, self._path, self._asked = access, root + path, asked
        self._idempotency_key = idempotency_key
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._came = asyncio.Condition()
        self.task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Send the request."""
        from config.asgi import application

        body = b"" if self._asked is None else json.dumps(self._asked, default=str).encode()
        headers = [(b"host", b"localhost"), (b"authorization", b"Bearer " + self._access.encode())]
        if self._idempotency_key:
            headers.append((b"idempotency-key", self._idempotency_key.encode()))
        if body:
            headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "method": "POST" if body else "GET",
            "path": self._path,
            "query_string": b"",
            "headers": headers,
        }
        self._incoming.put_nowait({"type": "http.request", "body": body})
        self.task = asyncio.create_task(application(scope, self._incoming.get, self._take))

    async def has(self, part: bytes = b"") -> None:
        """Wait until the answer has begun, and has this in it."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._came:
            await self._came.wait_for(lambda: self.status and part in self.body)

    def hang_up(self) -> None:
        """Go away, as far as the server can tell."""
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def leave(self) -> None:
        """Go away, and wait until the server has noticed."""
        assert self.task is not None
        self.hang_up()
        await asyncio.wait({self.task}, timeout=PATIENCE_SECONDS)
        assert self.task.done(), "It is still worked for, though it went away."

    @property
    def code(self) -> str:
        """Why it was refused."""
        return str(json.loads(self.body)["code"])

    async def _take(self, message: dict[str, Any]) -> None:
        async with self._came:
            self.status = message.get("status", self.status)
            self.body += message.get("body", b"")
            self._came.notify_all()
        if self.is_stuck:
            await asyncio.Event().wait()


async def request_of(user: User, path: str, asked: dict[str, Any] | None = None) -> HttpStream:
    """Return a request that was not sent yet."""
    return HttpStream((await in_thread(tokens_for, user))["access"], path, asked)


@asynccontextmanager
async def opened(user: User, path: str, asked: dict[str, Any] | None = None) -> AsyncIterator[HttpStream]:
    """A request whose answer has begun; leaving goes away."""
    stream = await request_of(user, path, asked)
    stream.begin()
    try:
        await stream.has()
        yield stream
    finally:
        await stream.leave()


def events_of(turn_id: UUID) -> str:
    return f"turns/{turn_id}/events"
