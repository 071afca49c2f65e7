"""Clients that ask for a turn and read its answer: from the provider itself, by the socket, by the event stream, by the
OpenAI-compatible API."""

import asyncio
from typing import Literal, Protocol

import msgspec
import uuid_utils

from bench.connections import (
    Address,
    ConnectionFailedError,
    HttpConnection,
    Response,
    SlowSocketConnection,
    SocketConnection,
    request_bytes,
)
from bench.measurement import TurnMeasurement
from bench.sse import EventReader
from bench.websocket import head_bytes

Target = Literal["provider", "socket", "slow-socket", "events", "completions"]

_END_TYPES = {"turn.completed", "turn.stopped", "turn.failed", "turn.interrupted", "turn.rejected"}


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Chunk(msgspec.Struct):
    choices: list[_Choice]


class _Message(msgspec.Struct):
    """The fields of the site's messages that matter here."""

    type: str = ""
    turn_id: str | None = None
    gen: int = 0
    at: int = 0
    text: str | None = None
    code: str | None = None
    retry_after: float | None = None


class _Error(msgspec.Struct):
    code: str | None = None


class _Created(msgspec.Struct):
    id: str = ""
    ticket: str = ""


_read_chunk = msgspec.json.Decoder(_Chunk).decode
_read_message = msgspec.json.Decoder(_Message).decode
_read_error = msgspec.json.Decoder(_Error).decode
_read_created = msgspec.json.Decoder(_Created).decode


class Client(Protocol):
    """A client that has one turn at a time."""

    async def open(self, turns: int) -> None:
        """Do what comes before the measurement. Raises ConnectionFailedError."""

    async def turn(self, measurement: TurnMeasurement) -> str | None:
        """Ask, and read to the end; return the kind of the error, or None. Raises ConnectionFailedError."""

    def close(self) -> None: ...


class ProviderClient:
    """Reads the provider's own stream, the baseline."""

    def __init__(
        self, address: Address, model: str, text: str, *, path: str = "", fields: dict[str, str] | None = None
    ) -> None:
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": text}]}
        path = path or f"{address.path}/chat/completions"
        self._http = HttpConnection(address)
        self._request = request_bytes("POST", address, path, msgspec.json.encode(body), fields=fields or {})

    async def open(self, turns: int) -> None:
        await self._http.open()

    async def turn(self, measurement: TurnMeasurement) -> str | None:
        events = EventReader()
        done = False

        def receive(data: bytes) -> None:
            nonlocal done
            for _, event in events.feed(data):
                if event == b"[DONE]":
                    done = True
                    continue
                choices = _read_chunk(event).choices
                if choices and (text := choices[0].delta.content):
                    measurement.take(text, len(event))

        await self._http.open()
        measurement.begin()
        response = await self._http.exchange(self._request, receive)
        return _http_error(response) or (None if done else "no-done")

    def close(self) -> None:
        self._http.close()


class CompletionClient(ProviderClient):
    """Reads the site's OpenAI-compatible stream as it would the provider's."""

    def __init__(self, address: Address, model: str, text: str, access_token: str, *, continued: bool) -> None:
        assert not continued
        fields = {"Authorization": f"Bearer {access_token}"}
        super().__init__(address, model, text, path="/v1/chat/completions", fields=fields)


class _SiteClient:
    """What both clients of the site share: the person, and the conversation."""

    def __init__(self, address: Address, model: str, text: str, access_token: str, *, continued: bool) -> None:
        self._address = address
        self._model = model
        self._text = text
        self._fields = {"Authorization": f"Bearer {access_token}"}
        self._continued = continued
        self._parent_id: str | None = None

    async def _create(self, http: HttpConnection, path: str) -> _Created:
        await http.open()
        request = request_bytes("POST", self._address, path, b"{}", fields=self._fields)
        response = await http.exchange(request)
        if response.status != 201:
            raise ConnectionFailedError(_http_error(response) or f"http-{response.status}")
        return _read_created(response.body)

    def _remember(self, turn_id: str | None) -> None:
        if self._continued:
            self._parent_id = turn_id


class SocketClient(_SiteClient):
    """Uses the socket of a page. It is opened before the measurement, as a page is before a question is asked."""

    _socket: SocketConnection | None = None
    _turn: "_Turn | None" = None
    _conversation_id = ""
    _kind: type[SocketConnection] = SocketConnection

    async def open(self, turns: int) -> None:
        http = HttpConnection(self._address)
        try:
            ticket = (await self._create(http, "/api/v1/socket-tickets")).ticket
        finally:
            http.close()
        self._socket = await self._kind.open(self._address, f"/ws/?ticket={ticket}", self._receive, self._ended)

    async def turn(self, measurement: TurnMeasurement) -> str | None:
        if self._socket is None:
            raise ConnectionFailedError("ws-closed")
        turn_id = str(uuid_utils.uuid7())
        if not (self._continued and self._conversation_id):
            self._conversation_id = str(uuid_utils.uuid7())
        command = {
            "type": "turn.start",
            "turn_id": turn_id,
            "conversation_id": self._conversation_id,
            "parent_id": self._parent_id,
            "model": self._model,
            "text": self._text,
            "blocks": True,  # as a page does
        }
        self._turn = _Turn(measurement, turn_id)
        measurement.begin()
        self._socket.send(msgspec.json.encode(command))
        error = await self._turn.over
        self._remember(turn_id)
        return error

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _receive(self, payload: bytes) -> None:
        if self._turn is not None:
            self._turn.take(_read_message(payload), head_bytes(len(payload)) + len(payload))

    def _ended(self, reason: str) -> None:
        self._socket = None
        if self._turn is not None:
            self._turn.finish(reason)


class SlowSocketClient(SocketClient):
    """Uses a socket that is read so slowly that the site's messages queue up."""

    _kind = SlowSocketConnection


class EventStreamClient(_SiteClient):
    """Uses the API's event stream. Its conversations are created before the measurement."""

    def __init__(self, address: Address, model: str, text: str, access_token: str, *, continued: bool) -> None:
        super().__init__(address, model, text, access_token, continued=continued)
        self._http = HttpConnection(address)
        self._conversations: list[str] = []

    async def open(self, turns: int) -> None:
        for _ in range(1 if self._continued else turns):
            self._conversations.append((await self._create(self._http, "/api/v1/conversations")).id)

    async def turn(self, measurement: TurnMeasurement) -> str | None:
        conversation_id = self._conversations[-1] if self._continued else self._conversations.pop()
        body = {"text": self._text, "model": self._model, "stream": True, "parent_id": self._parent_id}
        path = f"/api/v1/conversations/{conversation_id}/turns"
        fields = {**self._fields, "Accept": "text/event-stream"}
        request = request_bytes("POST", self._address, path, msgspec.json.encode(body), fields=fields)
        events = EventReader()
        turn = _Turn(measurement, None)

        def receive(data: bytes) -> None:
            for name, event in events.feed(data):
                message = _read_message(event)
                message.type = name
                turn.take(message, len(event))

        await self._http.open()
        measurement.begin()
        response = await self._http.exchange(request, receive)
        turn.finish(_http_error(response) or "no-end")
        self._remember(turn.turn_id)
        return turn.over.result()

    def close(self) -> None:
        self._http.close()


class _Turn:
    """Follows one turn through the messages of the site, from the socket or the event stream."""

    def __init__(self, measurement: TurnMeasurement, turn_id: str | None) -> None:
        self.turn_id = turn_id
        self.over: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._measurement = measurement

    def take(self, message: _Message, size: int) -> None:
        """Handle a message. A socket also has those of other tabs' turns, which are ignored."""
        if message.turn_id is None or self.over.done():
            return
        if self.turn_id is None:
            self.turn_id = message.turn_id
        elif message.turn_id != self.turn_id:
            return
        if message.type == "turn.delta":
            self._measurement.take_at(message.gen, message.at, message.text or "", size)
        elif message.type in _END_TYPES:
            if message.type == "turn.rejected":
                self._measurement.refused(message.retry_after)
            self.finish(None if message.type == "turn.completed" else _error_kind_of(message))

    def finish(self, error: str | None) -> None:
        if not self.over.done():
            self.over.set_result(error)


def _error_kind_of(message: _Message) -> str:
    kind = message.type.removeprefix("turn.")
    return f"{kind}:{message.code}" if message.code else kind


def _http_error(response: Response) -> str | None:
    """Return the kind of a refusal: its status, and its code if the body has one; None for a 200."""
    if response.status == 200:
        return None
    try:
        code = _read_error(response.body).code
    except msgspec.MsgspecError:
        code = None
    return f"http-{response.status}:{code}" if code else f"http-{response.status}"
