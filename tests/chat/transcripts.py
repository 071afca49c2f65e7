"""The same answers in the formats of OpenAI, DeepSeek, Anthropic and Gemini: whole responses for `wire.answering`."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
LAST = b"0\r\n\r\n"


@dataclass(frozen=True)
class Script:
    """What a provider says. `usage` is input, output, read from the cache, written to it, reasoning: all inclusive.

    `calls` of tools are id, name and arguments, which come in these pieces where the provider cuts them. `escaped` is
    JSON without a character beyond ASCII; else they are themselves, several bytes long.
    """

    text: tuple[str, ...] = ("Hola, ", "¿qué tal? ", "😀 日本")
    reasoning: tuple[str, ...] = ()
    calls: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    end: str = "stop"
    usage: tuple[int, int, int, int, int] | None = (12, 7, 0, 0, 0)
    broken: str = ""  # after the text: error, rubbish, nofinish
    escaped: bool = False

    def encode(self, data: Any) -> bytes:
        return data if isinstance(data, bytes) else json.dumps(data, ensure_ascii=self.escaped).encode()


Event = tuple[str, Any]


def openai(script: Script) -> list[bytes]:
    return [b"data: " + script.encode(data) + b"\n\n" for data in _openai_chunks(script)]


def _openai_chunks(script: Script) -> list[Any]:
    base = {"id": "c_1", "object": "chat.completion.chunk", "created": 1, "model": "m", "usage": None}

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    said = "refusal" if script.end == "refusal" else "content"
    chunks: list[Any] = [chunk({"role": "assistant", "content": ""})]
    chunks += [chunk({"reasoning_content": piece}) for piece in script.reasoning]
    chunks += [chunk({said: piece}) for piece in script.text]
    for index, (call_id, name, pieces) in enumerate(script.calls):
        function = {"name": name, "arguments": ""}
        chunks.append(
            chunk({"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]})
        )
        chunks += [chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}) for piece in pieces]
    match script.broken:
        case "error":
            return [*chunks, {"error": {"type": "server_error", "code": None, "message": "Overloaded"}}]
        case "rubbish":
            return [*chunks, b'{"choices": [{"del']
        case "nofinish":
            return chunks
    chunks.append(chunk({}, {"filter": "content_filter", "refusal": "stop"}.get(script.end, script.end)))
    if script.usage:
        read, output, cached, written, thought = script.usage
        usage = {
            "prompt_tokens": read,
            "completion_tokens": output,
            "total_tokens": read + output,
            "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
            "completion_tokens_details": {"reasoning_tokens": thought},
        }
        chunks.append({**base, "choices": [], "usage": usage})
    return [*chunks, b"[DONE]"]


def deepseek(script: Script) -> list[bytes]:
    """OpenAI's format; its cache is counted by names of its own, and writing to it is not counted."""
    chunks = _openai_chunks(script)
    for chunk in chunks:
        if isinstance(chunk, dict) and (usage := chunk.get("usage")):
            hits = usage["prompt_tokens_details"]["cached_tokens"]
            usage |= {"prompt_cache_hit_tokens": hits, "prompt_cache_miss_tokens": usage["prompt_tokens"] - hits}
            del usage["prompt_tokens_details"]
    return [b"data: " + script.encode(data) + b"\n\n" for data in chunks]


def anthropic(script: Script) -> list[bytes]:
    return [
        b"event: %s\ndata: %s\n\n" % (name.encode(), script.encode(data)) for name, data in _anthropic_events(script)
    ]


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
    thinking = {"type": "thinking", "thinking": "", "signature": ""}
    blocks = [(thinking, "thinking", script.reasoning)] if script.reasoning else []
    blocks += [({"type": "text", "text": ""}, "text", script.text)] if script.text else []
    for call_id, name, pieces in script.calls:
        blocks.append(({"type": "tool_use", "id": call_id, "name": name, "input": {}}, "input_json", ("", *pieces)))
    for index, (block, kind, pieces) in enumerate(blocks):
        said = "partial_json" if kind == "input_json" else kind
        events.append(("content_block_start", {"type": "content_block_start", "index": index, "content_block": block}))
        events.append(("ping", {"type": "ping"}))
        for piece in pieces:
            delta = {"type": f"{kind}_delta", said: piece}
            data = {"type": "content_block_delta", "index": index, "delta": delta}
            events.append(("content_block_delta", data))
        events.append(("content_block_stop", {"type": "content_block_stop", "index": index}))
    match script.broken:
        case "error":
            error = {"type": "overloaded_error", "message": "Overloaded"}
            return [*events, ("error", {"type": "error", "error": error})]
        case "rubbish":
            return [*events, ("content_block_delta", b'{"type": "content_block_delta", "ind')]
        case "nofinish":
            return events
    delta = {
        "stop_reason": {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}.get(
            script.end, "refusal"
        ),
        "stop_sequence": None,
    }
    if script.end == "refusal":
        delta["stop_details"] = {"type": "refusal", "category": "cyber", "explanation": "No."}
    usage = {"output_tokens": output, "output_tokens_details": {"thinking_tokens": thought}}
    ended = {"type": "message_delta", "delta": delta, "usage": usage}
    return [*events, ("message_delta", ended), ("message_stop", {"type": "message_stop"})]


def gemini(script: Script) -> list[bytes]:
    return [b"data: " + script.encode(data) + b"\r\n\r\n" for data in _gemini_chunks(script)]


def _gemini_chunks(script: Script) -> list[Any]:
    chunks: list[Any] = []
    for pieces, is_thought in ((script.reasoning, True), (script.text, False)):
        for piece in pieces:
            part = {"text": piece, **({"thought": True} if is_thought else {})}
            chunks.append({"candidates": [{"content": {"parts": [part], "role": "model"}, "index": 0}]})
    for place, (call_id, name, pieces) in enumerate(script.calls):
        call = {"name": name, "args": json.loads("".join(pieces) or "{}"), **({"id": call_id} if call_id else {})}
        signed = {} if place else {"thoughtSignature": "c2lnbmF0dXJl"}
        content = {"parts": [{"functionCall": call, **signed}], "role": "model"}
        chunks.append({"candidates": [{"content": content, "index": 0}]})
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
    reasons = {"length": "MAX_TOKENS", "filter": "SAFETY", "refusal": "PROHIBITED_CONTENT"}
    reason = reasons.get(script.end, "STOP")
    return [*chunks, {"candidates": [{"content": {"parts": []}, "finishReason": reason, "index": 0}], **last}]


def openai_error(status: int, code: str | None, message: str = "Sorry.", kind: str = "invalid_request_error") -> bytes:
    return _refusal(status, {"error": {"message": message, "type": kind, "param": None, "code": code}})


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
    """Return a response whose connection ends two events too early."""
    return [HEAD + b"".join(map(chunked, events[:-2]))]


SCRIPTS: dict[str, Script] = {
    "plain": Script(),
    "long": Script(text=tuple(f"word{number} " for number in range(2_000)), usage=(12, 4_000, 0, 0, 0)),
    "reasoning": Script(reasoning=("Hm, ", "let me see. "), usage=(12, 30, 0, 0, 21)),
    "cached": Script(usage=(5_000, 7, 4_096, 0, 0)),
    "at length": Script(end="length"),
    "escaped": Script(text=("¿Qué? ", "😀👩\u200d👧 ", "日本 e\u0301"), escaped=True),
    "filtered in the middle": Script(end="filter"),
    "filtered at once": Script(text=(), end="filter"),
    "refused": Script(text=("I would ", "rather not."), end="refusal"),
    "an error inside": Script(broken="error"),
    "rubbish inside": Script(broken="rubbish"),
    "without an end": Script(broken="nofinish"),
}

Speaker = Callable[[Script], list[bytes]]
WRITTEN = replace(Script(), usage=(5_000, 7, 2_048, 2_900, 0))
"""Tokens written to the cache too: Google does not count them."""
