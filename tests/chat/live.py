"""One page's socket, without a server: the ASGI application in this loop, and strict about what it sends."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

from django.conf import settings
from django.test import Client

from accounts.admission import Admission, admission_by_token
from accounts.models import User
from accounts.tokens import begin_family
from chat.socket.tickets import issue_ticket
from core.threads import in_thread
from history.models import new_id

PATIENCE_SECONDS = 30
OUR_ORIGIN = "http://localhost:8000"
ENDS = ("turn.completed", "turn.stopped", "turn.failed", "turn.interrupted")

Event = dict[str, Any]

Path(settings.STATIC_ROOT).mkdir(parents=True, exist_ok=True)  # the middleware misses it when nothing was collected


class Page:
    """A socket that is open, or was refused: `is_open`, `closed_with`, `denied_with` (the status of an answer to the
    handshake, whose body is `denial`) and every event in the order it came."""

    def __init__(self) -> None:
        self.is_open = False
        self.closed_with: int | None = None
        self.denied_with: int | None = None
        self.denial: dict[str, Any] | None = None
        self.events: list[Event] = []
        self._read = 0
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._came = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def connect(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Ask to be let in; returns when the answer is there."""
        from config.asgi import application

        address, _, query = path.partition("?")
        scope = {
            "type": "websocket",
            "scheme": "ws",
            "asgi": {"version": "3.0"},
            "path": address,
            "query_string": query.encode(),
            "headers": list(headers),
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }
        self._task = asyncio.create_task(application(scope, self._incoming.get, self._take))
        await self._incoming.put({"type": "websocket.connect"})
        await self.until(lambda: self.is_open or self.closed_with is not None or self.denial is not None)

    async def leave(self) -> None:
        """Go away as a browser does, and wait until the socket's work is over."""
        assert self._task is not None
        if not self._task.done():
            await self._incoming.put({"type": "websocket.disconnect", "code": 1001})
        await asyncio.wait({self._task}, timeout=PATIENCE_SECONDS)

    async def send_text(self, text: str) -> None:
        await self._incoming.put({"type": "websocket.receive", "text": text})

    async def send_bytes(self, data: bytes) -> None:
        await self._incoming.put({"type": "websocket.receive", "bytes": data})

    async def send(self, kind: str, **fields: Any) -> None:
        await self.send_text(json.dumps({"type": kind, **fields}, default=str))

    async def start(self, text: str = "say:hola", **fields: Any) -> UUID:
        """Ask in a new conversation unless told otherwise; return the turn's id."""
        defaults = {"turn_id": new_id(), "conversation_id": new_id(), "model": "scripted", "text": text}
        asked = defaults | fields
        await self.send("turn.start", **asked)
        return UUID(str(asked["turn_id"]))

    async def next(self, *kinds: str) -> Event:
        """Return the next event of one of these kinds; those before it are passed over."""
        while True:
            await self.until(lambda: len(self.events) > self._read)
            event = self.events[self._read]
            self._read += 1
            if event["type"] in kinds:
                return event

    async def ended(self) -> Event:
        """Wait for the end of a turn, and for the allowance that follows it; return the end."""
        end = await self.next(*ENDS)
        await self.next("allowance.changed")
        return end

    async def closing(self) -> int:
        """Wait until the server hangs up; return its code."""
        await self.until(lambda: self.closed_with is not None)
        assert self.closed_with is not None
        return self.closed_with

    async def settled(self) -> list[Event]:
        """Return everything that came, once what was on its way must have arrived."""
        mark = new_id()
        await self.send("turn.watch", turn_id=mark)  # of no turn: the answer comes after whatever was sent before it
        while (await self.next("turn.rejected"))["turn_id"] != str(mark):
            pass
        await asyncio.sleep(0.2)
        return [event for event in self.events if event.get("turn_id") != str(mark)]

    def of(self, *kinds: str) -> list[Event]:
        return [event for event in self.events if event["type"] in kinds]

    async def _take(self, message: dict[str, Any]) -> None:
        async with self._came:
            match message["type"]:
                case "websocket.accept":
                    self.is_open = True
                case "websocket.send":
                    assert self.closed_with is None, "It was hung up on and is still sent to."
                    self.events.append(json.loads(message["text"]))
                case "websocket.http.response.start":
                    self.denied_with = message["status"]
                case "websocket.http.response.body":
                    self.denial = json.loads(message["body"])
                case "websocket.close":
                    self.closed_with = message.get("code", 1000)
                    self._incoming.put_nowait({"type": "websocket.disconnect", "code": self.closed_with})
            self._came.notify_all()

    async def until(self, check: Any) -> None:
        """Wait until something is so; what breaks the application breaks the test."""
        assert self._task is not None
        waiting = asyncio.create_task(self._wait_for(check))
        await asyncio.wait({waiting, self._task}, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return
        if self._task.done():
            await asyncio.sleep(0)
            self._task.result()
        if not check():
            waiting.cancel()
            kinds = [event["type"] for event in self.events]
            raise AssertionError(f"It did not happen; what came: {kinds}, closed with {self.closed_with}.")
        await waiting

    async def _wait_for(self, check: Any) -> None:
        async with self._came:
            await self._came.wait_for(check)


@asynccontextmanager
async def socket(
    *,
    ticket: str = "",
    cookie: str = "",
    origin: str | None = OUR_ORIGIN,
    path: str = "/ws/",
    host: str = "localhost:8000",
    proto: str = "",
) -> AsyncIterator[Page]:
    """A page's socket, let in or not. `proto` is what a proxy says of its own connection."""
    page = Page()
    headers = [(b"host", host.encode())]
    if proto:
        headers.append((b"x-forwarded-proto", proto.encode()))
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    if cookie:
        headers.append((b"cookie", cookie.encode()))
    try:
        await page.connect(f"{path}?ticket={quote(ticket)}" if ticket else path, headers)
        yield page
    finally:
        await page.leave()


@asynccontextmanager
async def page_of(user: User) -> AsyncIterator[Page]:
    """A page of somebody who has a ticket."""
    async with socket(ticket=await in_thread(ticket_for, user)) as page:
        assert page.is_open
        yield page


def admission_for(user: User) -> Admission:
    """Log somebody in over the API; return what lets them in then."""
    return admission_by_token(begin_family(user).access_token)


def ticket_for(user: User) -> str:
    return issue_ticket(admission_for(user))


def session_cookie(user: User) -> str:
    """Log somebody in; return the cookie their browser has then."""
    client = Client()
    client.force_login(user)
    return f"sessionid={client.cookies['sessionid'].value}"
