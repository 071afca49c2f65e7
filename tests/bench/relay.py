"""The site's contract in a few lines: tickets, conversations, socket and event stream, relayed from a provider.

The text of a question asks for trouble: `reject`, `fail`, `resend` (a delta twice), `restart` (a second generation),
`gap` (a delta is lost), `drop` (the connection breaks), `silence` (no end).
"""

import asyncio
import json
import threading
import uuid
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

from aiohttp import ClientSession, WSMsgType, web

Message = dict[str, Any]
TROUBLE_AT = 3


class Relay:
    """A site in a thread of this process. `tokens` are those that were seen, in order."""

    def __init__(self, provider_url: str) -> None:
        self.port = 0
        self.tokens: list[str] = []
        self.parents: list[str | None] = []
        self.conversations: list[str] = []
        self._provider_url = provider_url
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application()
        app.add_routes(
            [
                web.post("/api/v1/socket-tickets", self._ticket),
                web.post("/api/v1/conversations", self._conversation),
                web.post("/api/v1/conversations/{id}/turns", self._events),
                web.get("/ws/", self._socket),
            ]
        )
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()
        await asyncio.sleep(0.01)  # what was being written to the slow is dropped in the loop's next rounds

    def _person(self, request: web.Request) -> str:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token.startswith("token"):
            raise web.HTTPUnauthorized(text='{"code": "not_authenticated"}')
        self.tokens.append(token)
        return token

    async def _ticket(self, request: web.Request) -> web.Response:
        return web.json_response({"ticket": f"ticket-of-{self._person(request)}"}, status=201)

    async def _conversation(self, request: web.Request) -> web.Response:
        self._person(request)
        return web.json_response({"id": str(uuid.uuid4())}, status=201)

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        if not request.query.get("ticket", "").startswith("ticket-of-token"):
            raise web.HTTPForbidden
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.ping()
        async for frame in socket:
            if frame.type != WSMsgType.TEXT:
                continue
            command = json.loads(frame.data)
            self.parents.append(command["parent_id"])
            self.conversations.append(command["conversation_id"])
            await socket.send_json({"type": "notice", "level": "info", "text": "hello"})
            await socket.send_json({"type": "turn.completed", "turn_id": str(uuid.uuid4()), "html": "another tab's"})
            async for message in self._turn(command["turn_id"], command):
                if message["type"] == "drop":
                    await socket.close(code=1011)
                    break
                await socket.send_json(message)
        return socket

    async def _events(self, request: web.Request) -> web.StreamResponse:
        self._person(request)
        command = await request.json()
        self.conversations.append(request.match_info["id"])
        self.parents.append(command["parent_id"])
        if command["text"] == "reject":
            return web.json_response({"code": "allowance_used_up", "detail": "…"}, status=402)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        number = 0
        async for message in self._turn(str(uuid.uuid4()), command):
            if message["type"] == "drop":
                assert request.transport is not None
                request.transport.abort()
                break
            number += 1
            await response.write(f"event: {message['type']}\nid: {number}\ndata: {json.dumps(message)}\n\n".encode())
        return response

    async def _turn(self, turn_id: str, command: Message) -> AsyncIterator[Message]:
        trouble = command["text"]
        if trouble == "reject":
            refusal = {"type": "turn.rejected", "turn_id": turn_id, "code": "allowance_used_up", "detail": "…"}
            yield {**refusal, "retry_after": 3}
            return
        yield {"type": "turn.started", "turn_id": turn_id, "html": "<p>…</p>"}
        text = ""
        async for count, piece in self._tokens(command["model"]):
            delta = {"type": "turn.delta", "turn_id": turn_id, "gen": 1, "at": len(text), "text": piece}
            text += piece
            if count == TROUBLE_AT and trouble in {"drop", "fail", "gap", "silence"}:
                if trouble == "gap":
                    continue
                yield (
                    {"type": "turn.failed", "turn_id": turn_id, "code": "provider_down"}
                    if trouble == "fail"
                    else {
                        "type": trouble,
                        "turn_id": turn_id,
                    }
                )
                if trouble == "silence":
                    await self._stop.wait()
                return
            yield delta
            if count == TROUBLE_AT and trouble == "resend":
                yield delta
        if trouble == "restart":
            yield {"type": "turn.delta", "turn_id": turn_id, "gen": 2, "at": 0, "text": text}
        yield {"type": "turn.completed", "turn_id": turn_id, "html": f"<p>{text}</p>", "code": None}

    async def _tokens(self, model: str) -> AsyncIterator[tuple[int, str]]:
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        count = 0
        async with (
            ClientSession() as session,
            session.post(f"{self._provider_url}/chat/completions", json=body) as answer,
        ):
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    piece = json.loads(line[6:])["choices"][0]["delta"].get("content")
                    if piece:
                        count += 1
                        yield count, piece
