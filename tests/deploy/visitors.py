"""People and programs who read answers through the gateway, and come back when they are cut off."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from uuid import uuid4

import aiohttp

from tests.fakes.readers import LOST, Member, Shown, events_of, read_by_events, read_by_socket

ORIGIN = "https://chat.example.com"
PAUSE_SECONDS = 0.2
BUSY = (429, 502, 503, 504)


class Visitor(Member):
    @property
    def base(self) -> str:
        return ORIGIN


@dataclass
class Reading:
    """What somebody has been shown of one answer, in whatever way."""

    way: str
    text: str = ""
    status: str = ""
    turn_id: str = ""  # of a stored turn: not what a program asks
    ended_at: float = 0.0
    connections: int = 0
    stopped: int = 0
    complaints: list[str] = field(default_factory=list)


async def read_answer(way: str, access: str, model: str, reading: Reading) -> None:
    """Ask, and read the answer to its end."""
    visitor = Visitor(access, lambda: 443)
    if way == "program":
        await _ask_as_program(visitor, model, reading)
        reading.ended_at = time.monotonic()
        return
    shown = Shown()
    following = asyncio.create_task(_follow(shown, reading))
    try:
        if way == "socket":
            await read_by_socket(visitor, shown, asks={"model": model, "text": "Hola"})
        else:
            await _ask_by_events(visitor, model, shown)
    finally:
        following.cancel()
    reading.turn_id, reading.text, reading.status = str(shown.turn_id), shown.text, shown.status
    reading.ended_at = time.monotonic()
    reading.connections, reading.complaints = shown.connections, shown.complaints


async def _follow(shown: Shown, reading: Reading) -> None:
    """Let others see how far a reader is."""
    while True:
        reading.text = shown.text
        await asyncio.sleep(PAUSE_SECONDS)


async def _ask_by_events(visitor: Visitor, model: str, shown: Shown) -> None:
    """Ask with `stream`, under an id of one's own; who is cut off comes back to the turn's events, or asks again under
    the same id if it was never heard of."""
    question = {"turn_id": str(shown.turn_id), "text": "Hola", "model": model, "stream": True}
    address = f"{visitor.base}/api/v1/conversations/{shown.conversation_id}/turns"
    while not shown.text and not shown.is_over:
        try:
            shown.connections += 1
            async with aiohttp.ClientSession(headers=visitor.headers) as session:
                async with session.post(address, json=question) as response:
                    if response.status in BUSY:
                        raise ConnectionError(str(response.status))
                    assert response.status in (200, 201), await response.text()
                    async for _event_id, event in events_of(response):
                        shown.take(event)
        except LOST:
            await asyncio.sleep(PAUSE_SECONDS)
    await read_by_events(visitor, shown)


async def _ask_as_program(visitor: Visitor, model: str, reading: Reading) -> None:
    """Ask as OpenAI's SDKs do, with an `Idempotency-Key`; an answer that breaks off is asked for again with the same
    one. Where the site took the cut for a good-bye, and stopped the answer, it is asked anew."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hola"}], "stream": True}
    key = str(uuid4())
    while not reading.status:
        try:
            reading.connections += 1
            headers = {**visitor.headers, "Idempotency-Key": key}
            async with aiohttp.ClientSession(headers=headers) as session:
                async with session.post(f"{visitor.base}/v1/chat/completions", json=body) as response:
                    if response.status == 409:
                        reading.stopped += 1
                        key = str(uuid4())
                        continue
                    if response.headers.get("x-should-retry") == "false":
                        reading.status = "interrupted"
                        continue
                    if response.status in BUSY:
                        raise ConnectionError(str(response.status))
                    assert response.status == 200, await response.text()
                    reading.text = ""
                    async for line in response.content:
                        _take_line(line.decode().strip(), reading)
        except LOST:
            pass
        if not reading.status:
            await asyncio.sleep(PAUSE_SECONDS)


def _take_line(line: str, reading: Reading) -> None:
    if line == "data: [DONE]":
        reading.status = reading.status or "completed"
    elif line.startswith("data: "):
        chunk = json.loads(line[6:])
        if "error" in chunk:
            reading.status = "interrupted"
        for choice in chunk.get("choices", []):
            reading.text += choice["delta"].get("content") or ""
