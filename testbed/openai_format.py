"""OpenAI's Chat Completions format: the events of an answer, and the body of a refusal. Other formats build on it."""

import json
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from testbed.script import Script

NS_PER_MS = 1_000_000
# Long enough for the two halves of an event to reach the reader as two reads.
SPLIT_PAUSE_NS = 500_000
IMAGE_TOKENS = 85
PLACEHOLDER = "@text@"
"""Stands for a token's text in the event that is the pattern for all tokens."""

ARGUMENTS_IN_A_DELTA = 5
"""Characters."""

EXAMPLE_MODELS = ("fake-20t-5ms", "fake-200t-20ms", "fake-50t-20ms-r10", "fake-200t-20ms-ns", "fake-5t-0ms-unicode")

_REFUSALS = {
    400: ("invalid_request_error", "invalid_value", "The request was not valid."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    403: (
        "invalid_request_error",
        "unsupported_country_region_territory",
        "Country, region, or territory not supported",
    ),
    404: ("invalid_request_error", "model_not_found", "The model does not exist or you do not have access to it."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached for requests."),
}
_SERVER_REFUSAL = ("server_error", None, "The server had an error while processing your request.")


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool. `arguments` are JSON."""

    index: int
    name: str
    arguments: str

    @property
    def id(self) -> str:
        return f"call_fake{self.index}"

    def written(self, **function: str) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": function}


class OpenAIAnswer:
    """One answer, as events or as a whole body; `sent` is how many tokens of it were made so far. A part of a call's
    arguments is a token, too."""

    __slots__ = ("_base", "_include_usage", "_newline", "_prompt_tokens", "calls", "script", "sent")

    def __init__(self, script: Script, request: dict[str, Any], number: int) -> None:
        self.script = script
        self.calls = called_tools(script, request)
        self.sent = 0
        self._prompt_tokens = count_prompt_tokens(request.get("messages") or [])
        options = request.get("stream_options") or {}
        self._include_usage = bool(options.get("include_usage"))
        self._newline = b"\r\n" if script.crlf else b"\n"
        self._base = {
            "id": f"chatcmpl-fake{number}",
            "created": int(time.time()),
            "model": request["model"],
            "service_tier": "default",
            "system_fingerprint": "fp_fake",
        }

    def events(self) -> Iterator[tuple[bytes, int]]:
        """Return server-sent events, each with the nanoseconds to wait before the next one."""
        events = self._events()
        return _in_two_writes(events) if self.script.split else events

    def whole(self) -> bytes:
        """Return the body of an answer that is not streamed."""
        script = self.script
        make = script.token_maker()
        message: dict[str, Any] = {"role": "assistant", "content": None}
        if self.calls:
            self.sent = script.reasoning + sum(len(in_parts(call.arguments)) for call in self.calls)
            message["tool_calls"] = [call.written(name=call.name, arguments=call.arguments) for call in self.calls]
        else:
            self.sent = script.reasoning + script.delivered
            message["content"] = "".join(map(make, range(script.delivered)))
        if script.reasoning:
            message["reasoning_content"] = "".join(f"r{i} " for i in range(script.reasoning))
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish()}
        body = {**self._base, "object": "chat.completion", "choices": [choice]}
        if script.usage:
            body["usage"] = self._usage()
        raw = encode(body)
        return raw if script.rubbish_after is None else raw[: len(raw) // 2]

    def _events(self) -> Iterator[tuple[bytes, int]]:
        script = self.script
        yield self._chunk({"role": "assistant", "content": "", "refusal": None}), 0
        yield from self._tokens(self._chunk({"reasoning_content": PLACEHOLDER}), script.reasoning, is_text=False)
        if self.calls:
            yield from self._called()
        else:
            yield from self._tokens(self._chunk({"content": PLACEHOLDER}), script.delivered, is_text=True)
        yield from self._ending()

    def _tokens(self, event: bytes, count: int, *, is_text: bool) -> Iterator[tuple[bytes, int]]:
        """Yield `count` events like `event`, each with a token's text in place of the PLACEHOLDER."""
        script = self.script
        pause = script.gap_ms * NS_PER_MS
        head, tail = event.split(PLACEHOLDER.encode())
        make = script.token_maker()
        for i in range(count):
            if is_text and i == script.rubbish_after:
                yield self._broken_event(), 0
            self.sent += 1
            if not is_text:
                raw = b"r%d " % i
            else:
                token = make(i)
                raw = token.encode() if script.timed else encode(token)[1:-1]
            yield head + raw + tail, pause

    def _called(self) -> Iterator[tuple[bytes, int]]:
        """Yield the calls, each with its name first and then its arguments in parts, as OpenAI streams them."""
        for call in self.calls:
            first = {"index": call.index, **call.written(name=call.name, arguments="")}
            yield self._chunk({"tool_calls": [first]}), 0
            for part in in_parts(call.arguments):
                self.sent += 1
                delta = {"index": call.index, "function": {"arguments": part}}
                yield self._chunk({"tool_calls": [delta]}), self.script.gap_ms * NS_PER_MS

    def _finish(self) -> str | None:
        return "tool_calls" if self.calls and self.script.finish == "stop" else self.script.finish

    def _broken_event(self) -> bytes:
        return self._event(b'{"id":"chatcmpl-fake","choices":[{"del')

    def _ending(self) -> Iterator[tuple[bytes, int]]:
        """Yield what follows the last token: nothing where the connection breaks or falls silent."""
        if self.script.ending == "error":
            yield self._event(refusal(500)), 0
        if self.script.ending != "finish":
            return
        yield self._chunk({}, self._finish()), 0
        if self._include_usage and self.script.usage:
            yield self._event(encode({**self._chunk_base(), "choices": [], "usage": self._usage()})), 0
        yield self._event(b"[DONE]"), 0

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        body = {**self._chunk_base(), "choices": [choice]}
        if self._include_usage:
            body["usage"] = None  # as OpenAI does in every chunk but the last
        return self._event(encode(body))

    def _chunk_base(self) -> dict[str, Any]:
        return {**self._base, "object": "chat.completion.chunk"}

    def _event(self, data: bytes) -> bytes:
        return b"data: " + data + self._newline * 2

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self.sent,
            "total_tokens": self._prompt_tokens + self.sent,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": self.script.reasoning, "audio_tokens": 0},
        }


def called_tools(script: Script, request: dict[str, Any]) -> tuple[Call, ...]:
    """Return the calls that a script answers a request with: none where no tool is offered, or one has answered."""
    messages, tools, choice = (request.get(name) for name in ("messages", "tools", "tool_choice"))
    if not (script.calls and messages and tools) or choice == "none" or messages[-1].get("role") == "tool":
        return ()
    called = choice if isinstance(choice, dict) else tools[0]
    arguments = as_arguments(last_question(messages))
    return tuple(Call(index, called["function"]["name"], arguments) for index in range(script.calls))


def as_arguments(question: str) -> str:
    try:
        is_object = isinstance(json.loads(question), dict)
    except ValueError:
        is_object = False
    return question if is_object else "{}"


def in_parts(arguments: str) -> list[str]:
    step = ARGUMENTS_IN_A_DELTA
    return [arguments[at : at + step] for at in range(0, len(arguments), step)]


def last_question(messages: Iterable[dict[str, Any]]) -> str:
    """Return the text of the user's last message, without its pictures and files."""
    questions = [message.get("content") for message in messages if message.get("role") == "user"]
    last = questions[-1] if questions else ""
    if isinstance(last, list):
        return "".join(str(part.get("text", "")) for part in last if part.get("type") == "text")
    return last if isinstance(last, str) else ""


def count_prompt_tokens(messages: Iterable[dict[str, Any]]) -> int:
    """Return the number of words in all messages; an image counts as IMAGE_TOKENS."""
    total = 0
    for message in messages:
        content = message.get("content") or ""
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            total += len(str(part.get("text", "")).split()) if part.get("type") == "text" else IMAGE_TOKENS
    return total


def refusal(status: int) -> bytes:
    """Return OpenAI's error body for a status."""
    kind, code, message = _REFUSALS.get(status, _SERVER_REFUSAL)
    return _refusal(kind, code, message)


def context_refusal() -> bytes:
    message = "This model's maximum context length is 1000 tokens. Please reduce the length of the messages."
    return _refusal("invalid_request_error", "context_length_exceeded", message, "messages")


def quota_refusal() -> bytes:
    message = "You exceeded your current quota, please check your plan and billing details."
    return _refusal("insufficient_quota", "insufficient_quota", message)


def model_list() -> bytes:
    data = [{"id": model, "object": "model", "created": 1_700_000_000, "owned_by": "fake"} for model in EXAMPLE_MODELS]
    return encode({"object": "list", "data": data})


def _refusal(kind: str, code: str | None, message: str, param: str | None = None) -> bytes:
    return encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def _in_two_writes(events: Iterable[tuple[bytes, int]]) -> Iterator[tuple[bytes, int]]:
    for event, pause in events:
        position = _cut_position(event)
        yield event[:position], SPLIT_PAUSE_NS
        yield event[position:], max(pause, SPLIT_PAUSE_NS)


def _cut_position(event: bytes) -> int:
    """Return a position that looks random and is the same in every run; half of them are inside a long character."""
    number = zlib.crc32(event)
    inside = [at for at, byte in enumerate(event) if byte & 0xC0 == 0x80]
    if inside and number & 1:
        return inside[(number >> 1) % len(inside)]
    return 1 + (number >> 1) % (len(event) - 1)


def encode(value: Any) -> bytes:
    """Return JSON without spaces, as providers send it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
