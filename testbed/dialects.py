"""The formats the fake provider speaks: which address is whose, what a request asks, and the answer's events.

OpenAI's is in `testbed.wire`. Anthropic's and Google's answers are streamed, whatever the request says. A refusal has the
format's own body where it is one of a status; the others have OpenAI's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from testbed import wire
from testbed.wire import Answer

_ANTHROPIC_ENDS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
_ANTHROPIC_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_GEMINI_ENDS = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
_GEMINI_ERRORS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
}
_TEXT = "@text@"


class MessagesAnswer(Answer):
    """Anthropic's: a block of thinking, if there is any, and one of text."""

    __slots__ = ()

    def _events(self) -> Iterator[tuple[bytes, int]]:
        script = self.script
        counts = {"input_tokens": self._prompt_tokens, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
        message = {
            "id": self._base["id"],
            "type": "message",
            "role": "assistant",
            "model": self._base["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**counts, "output_tokens": 1},
        }
        yield self._named("message_start", {"message": message}), 0
        yield self._named("ping", {}), 0
        blocks = [("thinking", script.reasoning)] if script.reasoning else []
        for index, (kind, count) in enumerate([*blocks, ("text", script.delivered)]):
            yield self._named("content_block_start", {"index": index, "content_block": {"type": kind, kind: ""}}), 0
            delta = {"index": index, "delta": {"type": f"{kind}_delta", kind: _TEXT}}
            yield from self._tokens(self._named("content_block_delta", delta), count, is_text=kind == "text")
            if script.ending in ("finish", "silent") or kind != "text":
                yield self._named("content_block_stop", {"index": index}), 0
        if script.ending == "error":
            yield self._named("error", {"error": {"type": "overloaded_error", "message": "Overloaded"}}), 0
        if script.ending != "finish":
            return
        usage = {"output_tokens": self.sent, "output_tokens_details": {"thinking_tokens": script.reasoning}}
        ended = {"stop_reason": _ANTHROPIC_ENDS[script.finish or "stop"], "stop_sequence": None}
        yield self._named("message_delta", {"delta": ended, "usage": usage}), 0
        yield self._named("message_stop", {}), 0

    def _rubbish(self) -> bytes:
        return b"event: content_block_delta" + self._newline + super()._rubbish()

    def _named(self, name: str, data: dict[str, Any]) -> bytes:
        return b"event: " + name.encode() + self._newline + self._event(wire.encode({"type": name, **data}))


class GeminiAnswer(Answer):
    """Google's: the counts so far are in every chunk, and why it ended in the last one."""

    __slots__ = ()

    def _events(self) -> Iterator[tuple[bytes, int]]:
        script = self.script
        thought = self._chunk_of({"text": _TEXT, "thought": True})
        yield from self._tokens(thought, script.reasoning, is_text=False)
        yield from self._tokens(self._chunk_of({"text": _TEXT}), script.delivered, is_text=True)
        if script.ending == "error":
            yield self._event(gemini_refusal(503)), 0
        if script.ending == "finish":
            yield self._chunk_of({"text": ""}, _GEMINI_ENDS[script.finish or "stop"]), 0

    def _chunk_of(self, part: dict[str, Any], reason: str | None = None) -> bytes:
        candidate: dict[str, Any] = {"content": {"parts": [part], "role": "model"}, "index": 0}
        body: dict[str, Any] = {"candidates": [candidate]}
        if reason:
            candidate["finishReason"] = reason
        if self.script.usage:
            written = max(0, self.sent - self.script.reasoning)
            body["usageMetadata"] = {
                "promptTokenCount": self._prompt_tokens,
                "candidatesTokenCount": written,
                "totalTokenCount": self._prompt_tokens + self.sent,
                "thoughtsTokenCount": self.script.reasoning,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": self._prompt_tokens}],
            }
        return self._event(wire.encode({**body, "modelVersion": self._base["model"], "responseId": self._base["id"]}))


def anthropic_refusal(status: int) -> bytes:
    error = {"type": _ANTHROPIC_ERRORS.get(status, "api_error"), "message": "Sorry."}
    return wire.encode({"type": "error", "error": error, "request_id": "req_fake"})


def gemini_refusal(status: int) -> bytes:
    return wire.encode(
        {"error": {"code": status, "message": "Sorry.", "status": _GEMINI_ERRORS.get(status, "UNAVAILABLE")}}
    )


def _as_chat(_path: str, body: dict[str, Any]) -> dict[str, Any]:
    return body


def _messages_as_chat(_path: str, body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "stream": True}


def _gemini_as_chat(path: str, body: dict[str, Any]) -> dict[str, Any]:
    messages = [
        {
            "role": content.get("role", "user"),
            "content": [{"type": "text", **part} for part in content.get("parts") or ()],
        }
        for content in body.get("contents") or ()
    ]
    return {
        "model": unquote(path).removeprefix(_GEMINI_BEGINS).removesuffix(_GEMINI_ENDS_WITH),
        "messages": messages,
        "max_tokens": (body.get("generationConfig") or {}).get("maxOutputTokens"),
        "stream": True,
    }


@dataclass(frozen=True, slots=True)
class Dialect:
    """`as_chat` says a request in the words of OpenAI's, as far as the script of an answer needs it."""

    answer: type[Answer]
    refusal: Callable[[int], bytes]
    as_chat: Callable[[str, dict[str, Any]], dict[str, Any]]


CHAT = Dialect(Answer, wire.refusal, _as_chat)
_MESSAGES = Dialect(MessagesAnswer, anthropic_refusal, _messages_as_chat)
_GEMINI = Dialect(GeminiAnswer, gemini_refusal, _gemini_as_chat)
_GEMINI_BEGINS = "/v1beta/models/"
_GEMINI_ENDS_WITH = ":streamGenerateContent"


def dialect_at(path: str) -> Dialect | None:
    """Return whose address it is; None for nobody's."""
    if path == "/v1/chat/completions":
        return CHAT
    if path == "/v1/messages":
        return _MESSAGES
    found = unquote(path)
    return _GEMINI if found.startswith(_GEMINI_BEGINS) and found.endswith(_GEMINI_ENDS_WITH) else None
