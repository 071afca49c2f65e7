"""A fake LLM provider on the loopback interface, in the wire formats of OpenAI, Anthropic and Google.

The name of the model is the script of the answer: see `testbed.script`. Tests use it as `FakeProvider`, the bench as a
process: `python -m testbed.provider --port 9100`.

    GET  /v1/models             a few example names; every name in the grammar works
    POST /v1/chat/completions   streamed or not
    POST /v1/messages, /v1beta/models/<model>:streamGenerateContent
    GET  /stats                 counters and the last request bodies, see `Counters`
    POST /reset                 sets them back, and drops every running stream
"""

import argparse
import asyncio
import json
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from time import monotonic_ns
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from testbed import openai_format
from testbed.formats import WireFormat, format_at
from testbed.http1 import LAST_CHUNK, MAX_HEAD_BYTES, Dechunker, Head, MalformedError
from testbed.many_connections import allow_many_sockets
from testbed.provider_state import Counters, ProviderState, RunningAnswer
from testbed.script import Script, UnknownScriptError, expected_reasoning, expected_text

__all__ = ["FakeProvider", "Script", "Counters", "expected_reasoning", "expected_text"]

T = TypeVar("T")

HOST = "127.0.0.1"
MAX_BODY_BYTES = 64 * 1024 * 1024

_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}
_JSON = "content-type: application/json\r\n"
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"x-request-id: req_fake\r\ntransfer-encoding: chunked\r\n\r\n"
)
_HTML = b"<html><head><title>%d</title></head><body><center><h1>%d</h1></center><hr>nginx</body></html>"


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    body: bytes
    closes: bool


class _Connection(asyncio.Protocol):
    """A client's connection. Requests that arrive while an answer runs wait in the buffer."""

    _transport: asyncio.Transport

    def __init__(self, provider: ProviderState) -> None:
        self._provider = provider
        self._buffer = b""
        self._running: RunningAnswer | None = None
        self._closes = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._provider.connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._serve()

    def connection_lost(self, exc: Exception | None) -> None:
        self._provider.connections.discard(self)
        if running := self._running:
            self._running, running.is_over = None, True
            self._provider.remove_running(running, by_client=True)

    def drop(self) -> None:
        if running := self._running:
            self._running, running.is_over = None, True
        self._transport.abort()

    def write(self, frames: list[bytes]) -> None:
        self._transport.write(frames[0] if len(frames) == 1 else b"".join(frames))

    def finish_stream(self, running: RunningAnswer, frames: list[bytes]) -> None:
        ending = running.answer.script.ending
        if ending == "stall":
            if frames:
                self.write(frames)
            return
        if ending == "cut":
            frames.append(b'400\r\ndata: {"id":"chatcmpl-fa')
            self._closes = True
        else:
            frames.append(LAST_CHUNK)
        self._end(running)
        self.write(frames)
        self._serve_next()

    def finish_whole(self, running: RunningAnswer) -> None:
        ending = running.answer.script.ending
        if ending == "stall":
            return
        body = running.answer.whole()
        self._end(running)
        if ending == "cut":
            self._transport.close()
        elif ending == "error":
            self._refuse(500, openai_format.refusal(500))
        else:
            self._reply(200, body)
        self._serve_next()

    def _end(self, running: RunningAnswer) -> None:
        self._running, running.is_over = None, True
        self._provider.remove_running(running, by_client=False)

    def _serve_next(self) -> None:
        if self._closes:
            self._transport.close()
        elif self._buffer:
            self._serve()

    def _serve(self) -> None:
        try:
            while self._running is None and not self._transport.is_closing():
                request = self._take_request()
                if request is None:
                    return
                self._closes = request.closes
                self._route(request)
                if self._closes and self._running is None:
                    self._transport.close()
        except MalformedError:
            self._refuse(400, openai_format.refusal(400))
            self._transport.close()

    def _take_request(self) -> _Request | None:
        """Return the next request in the buffer, or None while it is incomplete."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise MalformedError("head too long")
            return None
        head = Head.parse(self._buffer[:end])
        method, _, rest = head.start.partition(" ")
        target, _, version = rest.partition(" ")
        if version != "HTTP/1.1":
            raise MalformedError(head.start)
        body = self._take_body(head, end + 4)
        if body is None:
            return None
        return _Request(method, target.partition("?")[0], body, head.closes)

    def _take_body(self, head: Head, start: int) -> bytes | None:
        if len(self._buffer) - start > MAX_BODY_BYTES:
            raise MalformedError("body too long")
        if head.chunked:
            dechunker = Dechunker()
            body = dechunker.feed(self._buffer[start:])
            if dechunker.finished:
                self._buffer = dechunker.rest
                return body
        else:
            end = start + (head.content_length or 0)
            if len(self._buffer) >= end:
                body, self._buffer = self._buffer[start:end], self._buffer[end:]
                return body
        if head.fields.get("expect", "").lower() == "100-continue" and len(self._buffer) == start:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    def _route(self, request: _Request) -> None:
        if request.method == "POST" and (wire_format := format_at(request.path)):
            return self._answer(request, wire_format)
        match request.method, request.path:
            case "GET", "/v1/models":
                self._reply(200, openai_format.model_list())
            case "GET", "/stats":
                self._reply(200, json.dumps(asdict(self._provider.snapshot())).encode())
            case "POST", "/reset":
                self._provider.reset()
                self._reply(200, b"{}")
            case _:
                self._refuse(404, openai_format.refusal(404))

    def _answer(self, request: _Request, wire_format: WireFormat) -> None:
        sent = _read_body(request.body)
        body = wire_format.as_openai(request.path, sent) if sent is not None else {}
        if sent is None or not isinstance(body.get("model"), str):
            return self._refuse(400, wire_format.refusal(400))
        self._provider.requests.append(sent)
        try:
            script = Script.parse(body["model"])
        except UnknownScriptError:
            return self._refuse(404, wire_format.refusal(404))
        if script.kind == "tokens" and not self._provider.is_flaky_now(body["model"], script):
            return self._start_answer(script, body, wire_format)
        if script.kind == "hang":
            return self._hang(script, body)
        return self._refuse_by_script(script, wire_format)

    def _start_answer(self, script: Script, body: dict[str, Any], wire_format: WireFormat) -> None:
        script = script.for_question(openai_format.last_question(body.get("messages") or []))
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        if limit is not None:
            script = script.limited_to(int(limit))
        streamed = bool(body.get("stream"))
        wait_ms = script.first_ms if streamed else script.duration_ms
        answer = wire_format.answer(script, body, self._provider.counters.started)
        due_ns = monotonic_ns() + wait_ms * openai_format.NS_PER_MS
        running = RunningAnswer(self, answer, due_ns, answer.events() if streamed else None)
        self._run(running)
        if streamed:
            self._transport.write(_STREAM_HEAD)
        self._provider.clock.add(running)

    def _hang(self, script: Script, body: dict[str, Any]) -> None:
        self._run(RunningAnswer(self, openai_format.OpenAIAnswer(script, body, 0), 0, None))

    def _run(self, running: RunningAnswer) -> None:
        self._running = running
        self._provider.add_running(running)

    def _refuse_by_script(self, script: Script, wire_format: WireFormat) -> None:
        match script.kind:
            case "context":
                self._refuse(400, openai_format.context_refusal())
            case "quota":
                self._refuse(429, openai_format.quota_refusal())
            case "html":
                self._refuse(script.status, _HTML % (script.status, script.status), "content-type: text/html\r\n")
            case "status" if script.retry_after_seconds is not None:
                fields = f"retry-after: {script.retry_after_seconds}\r\n{_JSON}"
                self._refuse(script.status, wire_format.refusal(script.status), fields)
            case "status":
                self._refuse(script.status, wire_format.refusal(script.status))
            case _:  # a flaky script
                self._refuse(500, wire_format.refusal(500))

    def _refuse(self, status: int, body: bytes, fields: str = _JSON) -> None:
        self._provider.counters.refused += 1
        self._reply(status, body, fields)

    def _reply(self, status: int, body: bytes, fields: str = _JSON) -> None:
        head = (
            f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\n{fields}"
            f"x-request-id: req_fake\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)


def _read_body(raw: bytes) -> dict[str, Any] | None:
    """Return the request, or None where it is not a JSON object."""
    try:
        body = json.loads(raw)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def new_loop() -> asyncio.AbstractEventLoop:
    """Return asyncio's own event loop: it writes at once, so that the time in a timed token is right. uvloop holds
    writes back to the end of the loop's round, tens of milliseconds with 500 streams, and needs as much CPU."""
    return asyncio.SelectorEventLoop()


async def serve(provider: ProviderState, port: int, ready: Callable[[int], None], stop: asyncio.Event) -> None:
    """Serve on the loopback interface until `stop` is set; call `ready` with the port, a free one for 0."""
    server = await provider.loop.create_server(lambda: _Connection(provider), HOST, port, backlog=1024)
    ready(server.sockets[0].getsockname()[1])
    await stop.wait()
    server.close()
    for connection in list(provider.connections):
        connection.drop()
    await asyncio.sleep(0.01)  # aborted transports close in the loop's next rounds


class FakeProvider:
    """A provider in a thread of this process, for tests: `with FakeProvider() as provider: …`"""

    def __init__(self) -> None:
        self.port = 0
        self._loop = new_loop()
        self._provider = ProviderState(self._loop)
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fake-provider", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(10) or not self.port:
            raise RuntimeError("the fake provider did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        """The base URL for an OpenAI client."""
        return f"http://{HOST}:{self.port}/v1"

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The last request bodies, oldest first."""
        return self.stats().requests

    def stats(self) -> Counters:
        return self._call(self._provider.snapshot)

    def reset(self) -> None:
        """Set back counters, requests and flaky models, and drop running streams."""
        self._call(self._provider.reset)

    def _call(self, function: Callable[[], T]) -> T:
        """Call the function in the provider's own thread, so that nothing changes meanwhile; return its result."""
        result: Future[T] = Future()
        self._loop.call_soon_threadsafe(lambda: result.set_result(function()))
        return result.result(10)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(serve(self._provider, 0, self._started, self._stop))
        finally:
            self._ready.set()
            self._loop.close()

    def _started(self, port: int) -> None:
        self.port = port
        self._ready.set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9100, help="0 takes a free one; the first line printed is the URL")
    port = parser.parse_args().port
    allow_many_sockets()
    loop = new_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.run_until_complete(
        serve(ProviderState(loop), port, lambda chosen: print(f"http://{HOST}:{chosen}/v1", flush=True), stop)
    )
    loop.close()


if __name__ == "__main__":
    main()
