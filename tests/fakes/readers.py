"""Clients as the contract describes them: they ask, read, lose the connection, come back and go on.

Each keeps the text it was shown and complains about every character that is missing or comes twice.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import websockets
from uuid_utils.compat import uuid7

TERMINAL = ("turn.completed", "turn.stopped", "turn.failed", "turn.interrupted")
LOST = (OSError, aiohttp.ClientError, websockets.WebSocketException, TimeoutError, EOFError)


@dataclass
class Shown:
    """What a reader has on its page."""

    turn_id: UUID = field(default_factory=uuid7)
    conversation_id: UUID = field(default_factory=uuid4)
    gen: int = 0
    text: str = ""
    reasoning: str = ""
    connections: int = 0
    complaints: list[str] = field(default_factory=list)
    last: dict[str, Any] | None = None

    @property
    def is_over(self) -> bool:
        return self.last is not None

    @property
    def status(self) -> str:
        return "" if self.last is None else self.last["type"].removeprefix("turn.")

    def take(self, event: dict[str, Any]) -> None:
        """Show one event."""
        if event["type"] in ("turn.delta", "turn.reasoning"):
            self._take_text(event)
        elif event["type"] in TERMINAL:
            self.last = event

    def _take_text(self, event: dict[str, Any]) -> None:
        if event["gen"] > self.gen:
            if event["at"] != 0:
                self.complaints.append(f"generation {event['gen']} began at {event['at']}")
            self.gen, self.text, self.reasoning = event["gen"], "", ""
        name = "text" if event["type"] == "turn.delta" else "reasoning"
        have = getattr(self, name)
        if event["gen"] < self.gen or event["at"] != len(have):
            self.complaints.append(f"{name} at {event['gen']}/{event['at']} after {self.gen}/{len(have)}")
        setattr(self, name, have + event["text"])


@dataclass
class Member:
    """Somebody with an access token, and the address they reach the site at."""

    access: str
    port: Callable[[], int]

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port()}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access}"}

    async def call(self, method: str, path: str, **body: Any) -> tuple[int, Any]:
        """Return the status and the decoded answer of one API call."""
        async with aiohttp.ClientSession(headers=self.headers, timeout=aiohttp.ClientTimeout(total=60)) as session:
            async with session.request(method, f"{self.base}/api/v1/{path}", json=body or None) as response:
                text = await response.text()
                return response.status, json.loads(text) if text else None

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[websockets.ClientConnection]:
        """Open a socket with a fresh ticket."""
        status, answer = await self.call("POST", "socket-tickets")
        if status != 201:
            raise ConnectionError(f"no ticket: {status}")
        address = f"{self.base.replace('http', 'ws', 1)}/ws/?ticket={answer['ticket']}"
        async with websockets.connect(address, max_size=None, close_timeout=1, open_timeout=10) as socket:
            yield socket


async def read_by_socket(member: Member, shown: Shown, *, asks: dict[str, Any] | None = None) -> None:
    """Show a turn to its end over sockets, coming back after every cut. `asks` is sent until it was answered once."""
    while not shown.is_over:
        try:
            async with member.socket() as socket:
                shown.connections += 1
                if asks is not None:
                    command = {"type": "turn.start", "conversation_id": str(shown.conversation_id), **asks}
                else:
                    place = {"gen": shown.gen, "at": len(shown.text), "reasoning_at": len(shown.reasoning)}
                    command = {"type": "turn.watch", **place}
                await socket.send(json.dumps({**command, "turn_id": str(shown.turn_id)}))
                async for message in socket:
                    event = json.loads(message)
                    if event.get("turn_id") not in (None, str(shown.turn_id)):
                        continue
                    if event["type"] == "turn.rejected":
                        # Only what passes by itself is tried again: a store that is away.
                        if event["code"] not in ("unavailable", "not_found"):
                            shown.complaints.append(f"rejected: {event['code']}")
                            shown.last = event
                        break
                    if event["type"] == "turn.started" and asks is not None:
                        asks = None
                        if shown.text:  # the whole text follows
                            shown.gen, shown.text, shown.reasoning = 0, "", ""
                    shown.take(event)
                    if shown.is_over:
                        return
        except LOST:
            pass
        await asyncio.sleep(0.1)


async def read_by_events(member: Member, shown: Shown) -> None:
    """Show a turn that was already asked to its end over event streams, coming back with `Last-Event-ID`."""
    last_id = f"{shown.gen}-{len(shown.text)}-{len(shown.reasoning)}" if shown.gen else ""
    timeout = aiohttp.ClientTimeout(total=None, sock_read=30, sock_connect=5)
    while not shown.is_over:
        try:
            async with aiohttp.ClientSession(headers=member.headers, timeout=timeout) as session:
                shown.connections += 1
                address = f"{member.base}/api/v1/turns/{shown.turn_id}/events"
                async with session.get(address, headers={"Last-Event-ID": last_id}) as response:
                    if response.status != 200:
                        raise ConnectionError(str(response.status))
                    async for event_id, event in events_of(response):
                        shown.take(event)
                        last_id = event_id or last_id
        except LOST:
            pass
        await asyncio.sleep(0.1)


async def events_of(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Yield id and data of whole events: a cut one does not count, as in a browser."""
    event_id = data = ""
    async for line in response.content:
        text = line.decode()
        if text.startswith("id: "):
            event_id = text[4:].strip()
        elif text.startswith("data: "):
            data = text[6:]
        elif text == "\n" and data:
            yield event_id, json.loads(data)
            data = ""
