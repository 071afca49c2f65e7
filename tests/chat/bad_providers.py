"""Providers as no documentation describes them: answers that are valid, and then cut, mixed up, nested and lied about.

`cases` draws them as the very bytes of the wire, `serving` sends them.
"""

import asyncio
import copy
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import strategies as st

from tests.chat import transcripts
from tests.chat.transcripts import Script, chunked

SECRET = "sk-of-the-house"
SAID = "what-a-provider-said"
"""In everything a provider says; an operator never reads it in a log."""
ELSEWHERE = b"http://elsewhere.invalid"
"""In its place `serving` writes the address of a stranger."""
MAX_OUTPUT = 200
"""Tokens of an answer: long ones need not be long to be too long."""
READ_PAUSE_SECONDS = 0.002
DRIBBLE_SECONDS = 0.02
HALVES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Case:
    """What a provider sends: `reads` one after another, and then the connection's `ending`.

    It may be closed, reset, left open, or go on with `dribble` for ever. `answer` is what a person reads where nothing
    was lost or made up; None where nobody can say that.
    """

    provider: str
    transport: Literal["fast", "sdk"]
    reads: tuple[bytes, ...]
    ending: Literal["close", "reset", "open", "dribble"] = "close"
    dribble: bytes = b""
    answer: str | None = None

    @property
    def is_slow(self) -> bool:
        return self.ending in ("open", "dribble")

    def __str__(self) -> str:
        """As much of it as somebody reads, without long repetitions."""
        reads = ", ".join(
            repr(re.sub(rb"(.{1,9}?)\1{19,}", rb"(\1)*many", read, flags=re.DOTALL)) for read in self.reads
        )
        dribble = f" with {self.dribble[:80]!r}" if self.dribble else ""
        return f"{self.provider} by {self.transport}: {reads[:1_500]}, then {self.ending}{dribble}"


@dataclass(frozen=True)
class Raw:
    """A value as its JSON is written, where Python has none, or would not nest so deep."""

    json: str


@dataclass(frozen=True)
class Event:
    """An event of a stream: its name, empty without one, and its data, which are bytes where they are no JSON."""

    name: bytes
    data: Any


# --- What is said where everything is well ----------------------------------------------------------------------------

SPEAKERS: dict[str, Callable[[Script], list[bytes]]] = {
    "openai": transcripts.openai,
    "anthropic": transcripts.anthropic,
    "gemini": transcripts.gemini,
    "deepseek": transcripts.deepseek,
}
ERRORS: dict[str, tuple[Any, ...]] = {
    "openai": tuple(
        {"error": {"message": f"{SAID} {SECRET}", "type": kind, "param": None, "code": code}}
        for kind, code in (
            ("invalid_request_error", "context_length_exceeded"),
            ("insufficient_quota", "insufficient_quota"),
            ("invalid_request_error", "content_policy_violation"),
            ("server_error", None),
            ("requests", "rate_limit_exceeded"),
        )
    ),
    "anthropic": tuple(
        {"type": "error", "error": {"type": kind, "message": f"{SAID} {SECRET}"}, "request_id": "req_1"}
        for kind in ("overloaded_error", "rate_limit_error", "authentication_error", "invalid_request_error", "new")
    ),
    "gemini": tuple(
        {"error": {"code": code, "message": f"{SAID} {SECRET}", "status": name, "details": [{"retryDelay": delay}]}}
        for code, name, delay in (
            (503, "UNAVAILABLE", "1s"),
            (429, "RESOURCE_EXHAUSTED", "1e308s"),
            (429, "RESOURCE_EXHAUSTED", "infs"),
            (400, "INVALID_ARGUMENT", "nans"),
        )
    ),
}
ERRORS["deepseek"] = ERRORS["openai"]

# --- What is odd ------------------------------------------------------------------------------------------------------

PIECES = (
    *("hola ", "¿qué? ", "😀", "日本", "e\u0301", "👩\u200d👧", "\u202e", "\u2028", "\ufeff", "", " ", "\n\n", "```\n"),
    *(
        "\ud83d",
        "\ude00",
        "\udc00\ud800",
        "\0",
        "<script>1</script>",
        '"}]}\n\ndata: {}',
        "[DONE]",
        "\\ud83d",
        "% %s {0}",
        SAID,
    ),
)
NUMBERS = (0, -1, 1, 7, 0.5, 199.5, 201, 9_000, 3_000_000_000, 2**53, 2**63 - 1, 2**63, 2**64, 10**40)
ODD = (
    *(None, True, False, "", "7", "NaN", "inf", "a\0b", "\ud83d", "\ude00x", "\ud800\ud800", [], {}, [[]], [None]),
    *NUMBERS,
    *(Raw("NaN"), Raw("Infinity"), Raw("-1e999"), Raw("1e400"), Raw("-0"), Raw("007"), Raw("1e308"), Raw("'a'")),
    *(Raw("9" * 5_000), Raw('{"text": "a", "text": "b"}'), Raw(""), Raw('"\\ud83d\\ude00\\udc00"'), Raw('"\\x"')),
    *(["hola", 7, None], {"text": "hola"}, [{"type": "text", "text": "hola"}], [{"text": ["hola"]}], {"value": {}}),
    *("x" * 10_000, "日" * 4_000, "STOP", "stop", "tool_calls", "tool_use", "MALFORMED_FUNCTION_CALL", "error"),
)
KEYS = (
    *(
        "error",
        "usage",
        "choices",
        "delta",
        "content",
        "text",
        "type",
        "index",
        "finish_reason",
        "stop_reason",
        "parts",
    ),
    *(
        "thought",
        "candidates",
        "usageMetadata",
        "message",
        "refusal",
        "tool_calls",
        "functionCall",
        "reasoning",
        "code",
    ),
    *("reasoning_content", "thinking", "promptFeedback", "finishReason", "content_block", "status", "details", "input"),
)
DEPTHS = (1, 3, 200, 1_100, 20_000)
FOREIGN = (
    *(None, True, 7, "hola", [], {}, {"error": None}, {"error": SAID}, {"error": {"message": None}}, {"error": [1]}),
    *({"type": "ping"}, {"type": "error"}, {"type": "message_stop"}, {"choices": None}, {"candidates": [{}]}),
    *(
        {"choices": [{"index": 1, "delta": {"content": "the second choice"}, "finish_reason": "stop"}]},
        [{"choices": []}],
    ),
    *({"usage": {}}, {"usageMetadata": {}}, {"type": "message_delta", "usage": {}}, {"choices": [{"delta": {}}]}),
    *({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "{}"}}]}, "finish_reason": "tool_calls"}]},),
    *({"candidates": [{"content": {"parts": [{"functionCall": {}}]}, "finishReason": "STOP"}]}, b"", b"{", b"[DONE]"),
    *(b"\xff\xfe", b'{"choices": [{"delta": {"content": "\xf0\x9f"}}]}', b"null null", b"<html>", b'"' + b"x" * 5_000),
)
LINES = (
    *(b": keep-alive", b":", b": " + b"x" * 20_000, b"id: 7", b"retry: 99999999999", b"event", b"data", b"\xff: 1"),
    *(b"event: message", b"unknown: " + SAID.encode(), b"\0", b"data:", b"event: error", b" data: {}", b"\xef\xbb\xbf"),
)
RETRY_AFTER = (
    *("0", "1", "0.25", "2", "-5", "inf", "-inf", "nan", "1e308", "1e999", "9" * 400, "soon", "", "1,2", "0x10"),
    *("Wed, 21 Oct 2015 07:28:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "Wed, 99 Oct 2015 07:28:00", "\u0661"),
)
STATUSES = (
    *(400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 429, 429, 499, 500, 502, 503, 504, 529),
    *(201, 202, 204, 206, 300, 304, 418, 451, 599, 999),
)
HEADERS = (
    *(
        b"Content-Encoding: gzip",
        b"Content-Encoding: zstd",
        b"Content-Type: text/html; charset=utf-16",
        b"Set-Cookie: a=b",
    ),
    *(b"Content-Type: ", b"X-Said: " + b"x" * 9_000, b"X-Said: \xff\xfe", b"No colon", b"Content-Length: -1"),
    *(b"Transfer-Encoding: gzip, chunked", b"Content-Length: 5", b"Connection: upgrade", b"Retry-After: inf"),
)
BODIES = (
    *(
        b"",
        b"null",
        b"7",
        b"[]",
        b"{}",
        b'"' + SAID.encode() + b'"',
        b"<html>" + SAID.encode(),
        b"\xff\xfe\0",
        b"{" * 2_000,
    ),
    *(
        b"[" * 1_100 + b"]" * 1_100,
        b'{"error":' * 5_000 + b"1" + b"}" * 5_000,
        b"x" * 70_000,
        b'{"error": "\\ud800"}',
    ),
    *(b'{"error": {"message": NaN, "code": 1e999}}', b'[{"error": {"code": 429, "status": 7}}]', b"9" * 5_000),
)
NO_HTTP = (
    *(
        b"",
        b"\r\n",
        b"hello\r\n\r\n",
        b"HTTP/1.1",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\ndata: {}\n\n",
        b"\x16\x03\x01",
    ),
    *(
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 3_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5,
        b"HTTP/1.1 101 Switching\r\n\r\n",
    ),
)

KINDS = ("no HTTP", "moved", "refused", "refused", "whole", "whole", "broken", "broken", "broken", "broken")

# --- Drawing ----------------------------------------------------------------------------------------------------------

Draw = Callable[[st.SearchStrategy[Any]], Any]


def readable(text: list[str]) -> str:
    """Return what a person reads of these pieces: halves of characters are joined, or replaced where one is alone."""
    joined = "".join(text).replace("\0", "")
    return HALVES.sub("\ufffd", joined.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass"))


def _is_readable(text: list[str]) -> bool:
    """Whether there is something to read. With both NUL and halves, the order in which they are mended would matter."""
    joined = "".join(text)
    return bool(readable(text).strip()) and not ("\0" in joined and HALVES.search(joined))


pieces = st.sampled_from(PIECES) | st.text(st.characters(), max_size=4)
scripts = st.builds(
    Script,
    text=st.lists(pieces, min_size=0, max_size=6).map(tuple) | st.sampled_from((("hola " * 4_000,), ("日",) * 300)),
    reasoning=st.just(()) | st.lists(pieces, max_size=3).map(tuple),
    end=st.sampled_from(("stop", "stop", "stop", "length", "filter", "refusal")),
    usage=st.sampled_from(((12, 40, 0, 0, 0), (12, 40, 8, 0, 20), None))
    | st.tuples(*[st.sampled_from((0, *NUMBERS))] * 2, *[st.sampled_from((0, 0, 0, *NUMBERS))] * 3),
    broken=st.sampled_from(("", "", "", "", "error", "rubbish", "nofinish")),
    escaped=st.just(True),
)
readable_texts = st.lists(pieces, min_size=1, max_size=6).filter(_is_readable)


@st.composite
def cases(draw: Draw) -> Case:
    """One provider, one answer."""
    draw(st.integers(0, 9_999))  # a search varies its first choice, whatever it is: all others are left to chance
    provider = draw(st.sampled_from(list(SPEAKERS)))
    transport = draw(st.sampled_from(("fast", "sdk")))
    ending = draw(st.sampled_from(("close",) * 9 + ("reset", "open", "dribble")))
    match draw(st.sampled_from(KINDS)):
        case "whole":
            return _whole_answer(draw, provider, transport)
        case "broken":
            response = _response(draw, ending, 200, _broken_stream(draw, provider), b"text/event-stream")
        case "refused":
            response = _response(draw, ending, draw(st.sampled_from((200, *STATUSES))), _error_body(draw, provider))
        case "moved":
            status = draw(st.sampled_from((301, 302, 303, 307, 308)))
            place = draw(st.sampled_from((ELSEWHERE, ELSEWHERE + b"/v1/chat", ELSEWHERE.removeprefix(b"http:"))))
            response = _response(draw, ending, status, b"", extra=(b"Location: " + place,))
        case _:
            response = draw(st.sampled_from(NO_HTTP))
    if draw(st.sampled_from((False, False, False, True))):
        response = response[: draw(st.integers(0, len(response)))]  # it ends early, wherever that is
    dribble = draw(st.sampled_from(_dribbles(provider))) if ending == "dribble" else b""
    return Case(provider, transport, _cut(draw, response), ending, dribble)


def _whole_answer(draw: Draw, provider: str, transport: str) -> Case:
    """An answer that is odd, and yet says all that it has to: the person must read it."""
    text = draw(readable_texts)
    end, usage = draw(st.sampled_from(("stop", "length"))), draw(st.sampled_from(((12, 40, 0, 0, 0), None)))
    script = Script(text=tuple(text), end=end, usage=usage, escaped=True)
    stream = _lines(draw, _events_of(provider, script), line_ends=(b"\n", b"\r\n", b"\r"), lines=LINES[:2])
    headers = (b"Content-Type: text/event-stream", b"Connection: close")
    response = _framed(b"HTTP/1.1 200 OK", headers, stream, draw(st.sampled_from(("none", "right", "chunked"))))
    return Case(provider, transport, _cut(draw, response), answer=readable(text))


def _broken_stream(draw: Draw, provider: str) -> bytes:
    events = _events_of(provider, draw(scripts))
    for _ in range(draw(st.integers(0, 3))):
        draw(st.sampled_from(BREAKAGES))(draw, events)
    stream = _lines(draw, events, line_ends=(b"\n", b"\n", b"\r\n", b"\r"), lines=LINES)
    match draw(st.sampled_from(("",) * 5 + ("twice", "rubbish", "hole"))):
        case "twice":
            return stream * 2
        case "rubbish":
            at = draw(st.integers(0, len(stream)))
            return (
                stream[:at] + draw(st.sampled_from((b"\xff", b"\0", b"\xed\xa0\xbd", b"\n", b"\xf0\x9f"))) + stream[at:]
            )
        case "hole":
            at = draw(st.integers(0, len(stream)))
            return stream[:at] + stream[at + draw(st.integers(1, 40)) :]
    return stream


def _error_body(draw: Draw, provider: str) -> bytes:
    if draw(st.booleans()):
        return draw(st.sampled_from(BODIES))
    events = [Event(b"", copy.deepcopy(draw(st.sampled_from(ERRORS[provider]))))]
    for _ in range(draw(st.integers(0, 2))):
        draw(st.sampled_from((_change, _drop, _add, _nest)))(draw, events)
    return _encode(events[0].data)


def _dribbles(provider: str) -> tuple[bytes, ...]:
    event = next(one for one in SPEAKERS[provider](Script(escaped=True)) if b"Hola" in one)
    return (event, b": keep-alive\n\n", b"\n", b"x", b"data: {}\n\n", b'event: ping\ndata: {"type": "ping"}\n\n')


# --- Breaking the events of a stream ----------------------------------------------------------------------------------


def _change(draw: Draw, events: list[Event]) -> None:
    """Something is another thing."""
    _replace(draw, events, lambda _old: draw(st.sampled_from(ODD)))


def _nest(draw: Draw, events: list[Event]) -> None:
    """Something lies deep in lists or objects."""
    depth, (opening, closing) = draw(st.sampled_from(DEPTHS)), draw(st.sampled_from((("[", "]"), ('{"a":', "}"))))
    _replace(draw, events, lambda old: Raw(opening * depth + _encode(old).decode("utf-8", "replace") + closing * depth))


def _replace(draw: Draw, events: list[Event], new: Callable[[Any], Any]) -> None:
    place = _choose(draw, [place for event in events for place in _places(event.data)])
    if place is not None:
        container, key = place
        container[key] = new(container[key])


def _drop(draw: Draw, events: list[Event]) -> None:
    place = _choose(draw, [place for event in events for place in _places(event.data)])
    if place is not None:
        del place[0][place[1]]


def _add(draw: Draw, events: list[Event]) -> None:
    """An object has one key more, or another value for one it has."""
    places = [container for event in events for container, _key in _places(event.data) if isinstance(container, dict)]
    container = _choose(draw, places)
    if container is not None:
        container[draw(st.sampled_from(KEYS))] = copy.deepcopy(draw(st.sampled_from(ODD)))


def _repeat(draw: Draw, events: list[Event]) -> None:
    if events:
        at = draw(st.integers(0, len(events) - 1))
        events[at:at] = [copy.deepcopy(events[at])] * draw(st.sampled_from((1, 1, 2, 50)))


def _move(draw: Draw, events: list[Event]) -> None:
    if events:
        moved = events.pop(draw(st.integers(0, len(events) - 1)))
        events.insert(draw(st.integers(0, len(events))), moved)


def _lose(draw: Draw, events: list[Event]) -> None:
    if events:
        events.pop(draw(st.integers(0, len(events) - 1)))


def _insert(draw: Draw, events: list[Event]) -> None:
    """Something comes that belongs to no answer, or to another provider's."""
    others = [error for errors in ERRORS.values() for error in errors]
    data = copy.deepcopy(draw(st.sampled_from((*FOREIGN, *others))))
    events.insert(draw(st.integers(0, len(events))), Event(b"", data))


def _rename(draw: Draw, events: list[Event]) -> None:
    if events:
        at = draw(st.integers(0, len(events) - 1))
        name = draw(st.sampled_from((b"", b"error", b"ping", b"message_stop", b"content_block_delta", b"\xff")))
        events[at] = Event(name, events[at].data)


BREAKAGES = (_change, _change, _change, _nest, _drop, _add, _add, _repeat, _move, _lose, _insert, _insert, _rename)


def _places(data: Any) -> list[tuple[Any, Any]]:
    """Return every value inside, as its container and its key."""
    found: list[tuple[Any, Any]] = []
    waiting = [data]
    while waiting:
        match container := waiting.pop():
            case dict():
                keys = list(container)
            case list():
                keys = range(len(container))
            case _:
                continue
        found += [(container, key) for key in keys]
        waiting += [container[key] for key in keys]
    return found


def _choose(draw: Draw, values: list[Any]) -> Any:
    return values[draw(st.integers(0, len(values) - 1))] if values else None


# --- Bytes ------------------------------------------------------------------------------------------------------------


def _events_of(provider: str, script: Script) -> list[Event]:
    """Return the events of an answer, without its comments."""
    events = []
    for spoken in SPEAKERS[provider](script):
        head, found, data = spoken.strip().partition(b"data: ")
        if found:
            with suppress(ValueError):
                data = json.loads(data)
            events.append(Event(head.removeprefix(b"event: ").strip(), data))
    return events


def _encode(data: Any) -> bytes:
    if isinstance(data, bytes):
        return data
    raws: list[str] = []

    def stand_in(raw: Raw) -> str:
        raws.append(raw.json)
        return f"raw-{len(raws)}"

    text = json.dumps(data, default=stand_in)
    for number, raw in enumerate(raws, 1):
        text = text.replace(f'"raw-{number}"', raw)
    return text.encode("utf-8", "surrogatepass")


def _lines(draw: Draw, events: list[Event], *, line_ends: tuple[bytes, ...], lines: tuple[bytes, ...]) -> bytes:
    """Return the events as a stream, with other lines between them."""
    line_end = draw(st.sampled_from(line_ends))
    field = draw(st.sampled_from((b"data: ", b"data:")))
    written = [
        (b"event: " + event.name + line_end if event.name else b"") + field + _encode(event.data) + line_end * 2
        for event in events
    ]
    for _ in range(draw(st.sampled_from((0, 0, 1, 3, 40)))):
        at = draw(st.integers(0, len(written)))
        written.insert(at, draw(st.sampled_from(lines)) + line_end * draw(st.integers(1, 2)))
    has_mark = draw(st.sampled_from((False, False, False, True)))
    return (b"\xef\xbb\xbf" if has_mark else b"") + b"".join(written)


def _response(
    draw: Draw,
    ending: str,
    status: int,
    body: bytes,
    media_type: bytes = b"application/json",
    *,
    extra: tuple[bytes, ...] = (),
) -> bytes:
    headers = (b"Content-Type: " + media_type, *extra)
    if ending == "close":  # else another question may be sent on it just then, which would have to be asked again
        headers += (b"Connection: close",)
    if draw(st.sampled_from((False, True) if status != 200 else (False, False, False, True))):
        headers += (b"Retry-After: " + draw(st.sampled_from(RETRY_AFTER)).encode(),)
    if draw(st.sampled_from((False,) * 5 + (True,))):
        headers += (draw(st.sampled_from(HEADERS)),)
    length = draw(st.sampled_from(("none", "none", "right", "right", "chunked", "chunked", "too short", "too long")))
    return _framed(b"HTTP/1.1 %d Said" % status, headers, body, length)


def _framed(first_line: bytes, headers: tuple[bytes, ...], body: bytes, length: str) -> bytes:
    match length:
        case "none":
            pass
        case "chunked":
            headers += (b"Transfer-Encoding: chunked",)
            half = len(body) // 2
            body = b"".join(chunked(part) for part in (body[:half], body[half:]) if part) + transcripts.LAST
        case _:
            told = {"too short": len(body) // 2, "too long": len(body) + 50}.get(length, len(body))
            headers += (b"Content-Length: %d" % told,)
    return b"\r\n".join((first_line, *headers, b"", body))


def _cut(draw: Draw, response: bytes) -> tuple[bytes, ...]:
    """Return it as the reads it comes in, cut at any byte."""
    places = sorted(draw(st.sets(st.integers(0, len(response)), max_size=5)))
    return tuple(response[start:end] for start, end in zip((0, *places), (*places, len(response)), strict=True))


# --- Sending ----------------------------------------------------------------------------------------------------------


@dataclass
class Served:
    """Where the provider and the stranger listen, and the first line of what the stranger was told."""

    url: str
    stranger: str
    told_strangers: list[str]


@asynccontextmanager
async def serving(cases_by_model: Mapping[str, Case]) -> AsyncIterator[Served]:
    """Serve on the loopback interface: to each request the case of the model that it names."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while case := cases_by_model.get(model := await _model_of(reader)):  # an open connection is used again
                await _send(case, writer, f"{served.stranger}/{model}".encode())
                if case.ending != "open":
                    break
        writer.close()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.told_strangers.append((await reader.readline()).decode())
        writer.close()

    tasks: set[Any] = set()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    stranger = await asyncio.start_server(listen, "127.0.0.1", 0)
    served = Served(f"{_address(server)}/v1", _address(stranger), [])
    try:
        yield served
    finally:
        server.close()
        stranger.close()
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0.01)  # connections are closed in the loop's next rounds


def _address(server: asyncio.Server) -> str:
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _model_of(reader: asyncio.StreamReader) -> str:
    """Read a request; return the model that is asked."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head.lower())
    request = head + await reader.readexactly(int(length[1]) if length else 0)
    model = re.search(rb"bad-\d+", request)
    return model[0].decode() if model else ""


async def _send(case: Case, writer: asyncio.StreamWriter, stranger: bytes) -> None:
    for number, read in enumerate(case.reads):
        if number:
            await asyncio.sleep(READ_PAUSE_SECONDS)
        writer.write(read.replace(ELSEWHERE, stranger).replace(ELSEWHERE[5:], stranger[5:]))
        await writer.drain()
    while case.ending == "dribble" and not writer.is_closing():
        writer.write(case.dribble)
        await writer.drain()
        await asyncio.sleep(DRIBBLE_SECONDS)
    if case.ending == "reset" and not writer.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
