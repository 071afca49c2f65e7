"""The same answers in the words of Anthropic and of Gemini: the bytes of whole HTTP responses, for `wire.answering`."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
LAST = b"0\r\n\r\n"


@dataclass(frozen=True)
class Script:
    """What a provider says. `usage` is input, output, read from the cache, written to it, reasoning: all inclusive."""

    text: tuple[str, ...] = ("Hola, ", "¿qué tal? ", "😀 日本")
    reasoning: tuple[str, ...] = ()
    end: str = "stop"
    usage: tuple[int, int, int, int, int] | None = (12, 7, 0, 0, 0)
    broken: str = ""  # after the text: error, rubbish, nofinish


Event = tuple[str, Any]


def anthropic(script: Script) -> list[bytes]:
    return [_anthropic_event(*event) for event in _anthropic_events(script)]


def _anthropic_event(name: str, data: Any) -> bytes:
    return f"event: {name}\ndata: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def _anthropic_events(script: Script) -> list[Event]:
    read, output, cached, written, thought = script.usage or (0, 0, 0, 0, 0)
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
    counts = {
        "input_tokens": read - cached - written,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": written,
        "output_tokens": 1,
    }
    events: list[Event] = [("message_start", {"type": "message_start", "message": {**message, "usage": counts}})]
    blocks = [("thinking", "thinking_delta", script.reasoning)] if script.reasoning else []
    blocks += [("text", "text_delta", script.text)] if script.text else []
    for index, (kind, delta, pieces) in enumerate(blocks):
        block = {"type": kind, kind: "", **({"signature": ""} if kind == "thinking" else {})}
        events.append(("content_block_start", {"type": "content_block_start", "index": index, "content_block": block}))
        events.append(("ping", {"type": "ping"}))
        for piece in pieces:
            data = {"type": "content_block_delta", "index": index, "delta": {"type": delta, kind: piece}}
            events.append(("content_block_delta", data))
        events.append(("content_block_stop", {"type": "content_block_stop", "index": index}))
    match script.broken:
        case "error":
            error = {"type": "overloaded_error", "message": "Overloaded"}
            return [*events, ("error", {"type": "error", "error": error})]
        case "rubbish":
            return [*events, ("content_block_delta", '{"type": "content_block_delta", "ind')]
        case "nofinish":
            return events
    reason = {"stop": "end_turn", "length": "max_tokens", "filter": "refusal"}[script.end]
    usage = {"output_tokens": output, "output_tokens_details": {"thinking_tokens": thought}}
    ended = {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}
    return [*events, ("message_delta", ended), ("message_stop", {"type": "message_stop"})]


def gemini(script: Script) -> list[bytes]:
    datas = (data if isinstance(data, bytes) else json.dumps(data).encode() for data in _gemini_chunks(script))
    return [b"data: " + data + b"\r\n\r\n" for data in datas]


def _gemini_chunks(script: Script) -> list[Any]:
    chunks: list[Any] = []
    for pieces, is_thought in ((script.reasoning, True), (script.text, False)):
        for piece in pieces:
            part = {"text": piece, **({"thought": True} if is_thought else {})}
            chunks.append({"candidates": [{"content": {"parts": [part], "role": "model"}, "index": 0}]})
    match script.broken:
        case "error":
            return [*chunks, {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}]
        case "rubbish":
            return [*chunks, b'{"candidates": [{"content']
        case "nofinish":
            return chunks
    last: dict[str, Any] = {}
    if script.usage:
        read, output, cached, _written, thought = script.usage
        last["usageMetadata"] = {
            "promptTokenCount": read,
            "candidatesTokenCount": output - thought,
            "totalTokenCount": read + output,
            **({"cachedContentTokenCount": cached} if cached else {}),
            **({"thoughtsTokenCount": thought} if thought else {}),
        }
    if script.end == "blocked":
        return [{"promptFeedback": {"blockReason": "SAFETY"}, **last}]
    reason = {"stop": "STOP", "length": "MAX_TOKENS", "filter": "SAFETY"}[script.end]
    return [*chunks, {"candidates": [{"content": {"parts": []}, "finishReason": reason, "index": 0}], **last}]


def anthropic_error(status: int, kind: str, message: str = "Sorry.") -> bytes:
    return _refusal(status, {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"})


def gemini_error(status: int, name: str, message: str = "Sorry.", details: tuple[Any, ...] = ()) -> bytes:
    return _refusal(status, {"error": {"code": status, "message": message, "status": name, "details": list(details)}})


def _refusal(status: int, stated: Any, headers: str = "") -> bytes:
    body = json.dumps(stated).encode()
    head = f"HTTP/1.1 {status} Refused\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return (head + headers + "Connection: close\r\n\r\n").encode() + body


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def whole(events: list[bytes], *, every: int | None = None) -> list[bytes]:
    """Return a whole response; `every` cuts it into chunks of so many bytes, wherever that falls."""
    joined = b"".join(events)
    parts = [joined] if every is None else [joined[at : at + every] for at in range(0, len(joined), every)]
    return [HEAD + b"".join(map(chunked, parts)) + LAST]


def cut(events: list[bytes]) -> list[bytes]:
    """Return a response whose connection ends in the middle."""
    return [HEAD + b"".join(map(chunked, events[:-2]))]


SCRIPTS: dict[str, Script] = {
    "plain": Script(),
    "long": Script(text=tuple(f"word{number} " for number in range(2_000)), usage=(12, 4_000, 0, 0, 0)),
    "reasoning": Script(reasoning=("Hm, ", "let me see. "), usage=(12, 30, 0, 0, 21)),
    "cached": Script(usage=(5_000, 7, 4_096, 0, 0)),
    "at length": Script(end="length"),
    "refused in the middle": Script(end="filter"),
    "refused at once": Script(text=(), end="filter"),
    "an error inside": Script(broken="error"),
    "rubbish inside": Script(broken="rubbish"),
    "without an end": Script(broken="nofinish"),
}

Speaker = Callable[[Script], list[bytes]]
WRITTEN = replace(Script(), usage=(5_000, 7, 2_048, 2_900, 0))
"""Tokens written to the cache too: only Anthropic counts them."""
