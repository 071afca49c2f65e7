"""Google's Gemini: `streamGenerateContent` as server-sent events.

https://ai.google.dev/api/generate-content
"""

from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import quote

import msgspec

from chat.llm.providers.base import Event, Finish, FinishReason, Message, ModelRequest, TokenUsage
from chat.llm.providers.errors import (
    AuthenticationFailed,
    BadRequest,
    ModelNotFound,
    Overloaded,
    PermissionRefused,
    PromptTooLong,
    ProviderError,
    ProviderRateLimited,
    TimedOut,
    error_from_status,
)
from chat.llm.providers.streaming import Answer, stream_answer


class _Part(msgspec.Struct, rename="camel", gc=False):
    text: str | None = None
    thought: bool | None = None
    function_call: Any = None


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel", gc=False):
    content: _Content | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, rename="camel", gc=False):
    """Counts so far. What was read from the cache is in the prompt's; thoughts are not in the candidates'."""

    prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    cached_content_token_count: int | None = None


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class _Chunk(msgspec.Struct, rename="camel", gc=False):
    candidates: list[_Candidate] | None = None
    usage_metadata: _Usage | None = None
    prompt_feedback: _Feedback | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode

_FILTERS = frozenset(
    ("SAFETY", "PROHIBITED_CONTENT", "RECITATION", "BLOCKLIST", "SPII", "MODEL_ARMOR", "IMAGE_SAFETY", "LANGUAGE")
)
_TOOL_CALLS = frozenset(("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS"))

_ERRORS: dict[str, type[ProviderError]] = {
    "UNAUTHENTICATED": AuthenticationFailed,
    "PERMISSION_DENIED": PermissionRefused,
    "FAILED_PRECONDITION": PermissionRefused,  # no billing, or not in this country
    "NOT_FOUND": ModelNotFound,
    "RESOURCE_EXHAUSTED": ProviderRateLimited,
    "INVALID_ARGUMENT": BadRequest,
    "OUT_OF_RANGE": BadRequest,
    "DEADLINE_EXCEEDED": TimedOut,
    "INTERNAL": Overloaded,
    "UNAVAILABLE": Overloaded,
}


def stream(request: ModelRequest) -> AsyncGenerator[Event]:
    base, model = request.provider.base_url.rstrip("/"), quote(request.model, safe="")
    url = f"{base}/models/{model}:streamGenerateContent?alt=sse"
    headers = {"x-goog-api-key": request.provider.api_key}
    return stream_answer(_GeminiAnswer(), request, url, headers=headers, body_of=body_of)


class _GeminiAnswer(Answer):
    """It ends with the connection: the last event is not marked."""

    __slots__ = ("calls_tool", "reason", "usage")

    def __init__(self) -> None:
        super().__init__()
        self.reason: str | None = None
        self.calls_tool = False
        self.usage: _Usage | None = None

    def read(self, event: bytes) -> tuple[str, str]:
        chunk = _decode(event)
        if chunk.error:
            raise _parse_error(chunk.error, status=None)
        if chunk.usage_metadata is not None:
            self.usage = chunk.usage_metadata
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason:
            self.reason = "SAFETY"
        text = reasoning = ""
        for candidate in chunk.candidates or ():
            if candidate.finish_reason:
                self.reason = candidate.finish_reason
            for part in (candidate.content and candidate.content.parts) or ():
                if part.thought:
                    reasoning += part.text or ""
                else:
                    text += part.text or ""
                if part.function_call is not None:
                    self.calls_tool = True
        return text, reasoning

    def finish(self) -> Finish | None:
        if self.reason is None:
            return None
        return Finish(gemini_finish_reason(self.reason, calls_tool=self.calls_tool), self._usage())

    def _usage(self) -> TokenUsage | None:
        usage = self.usage
        if usage is None:
            return None
        thoughts = max(0, usage.thoughts_token_count or 0)
        return TokenUsage(
            input=max(0, usage.prompt_token_count or 0),
            output=max(0, usage.candidates_token_count or 0) + thoughts,
            cache_read=max(0, usage.cached_content_token_count or 0),
            reasoning=thoughts,
        )

    def error_of(self, status: int, body: Any, retry_after: float | None) -> ProviderError:
        if isinstance(body, list) and body:  # without `alt=sse`, and from some proxies with it
            body = body[0]
        error = body.get("error") if isinstance(body, dict) else None
        return _parse_error(error, status=status, retry_after=retry_after)


def gemini_finish_reason(reason: str, *, calls_tool: bool) -> FinishReason:
    """Return what a `finishReason` means; after a tool call it is `STOP`."""
    if reason in _FILTERS:
        return "content_filter"
    if calls_tool or reason in _TOOL_CALLS:
        return "tool_call"
    return "length" if reason == "MAX_TOKENS" else "stop"


def _parse_error(error: Any, *, status: int | None, retry_after: float | None = None) -> ProviderError:
    """Return the error a Google error object (`code`, `status`, `message`, `details`) means."""
    fields = error if isinstance(error, dict) else {}
    details = _details_of(error)
    name, message = str(fields.get("status", "")), str(fields.get("message", "")).lower()
    if any(detail.get("reason") == "API_KEY_INVALID" for detail in details) or "api key not valid" in message:
        return AuthenticationFailed(status=status)  # a 400
    if name == "INVALID_ARGUMENT" and "token" in message and ("exceed" in message or "too long" in message):
        return PromptTooLong(status=status)
    if found := _ERRORS.get(name):
        return found(status=status, retry_after=retry_after if retry_after is not None else retry_delay_of(error))
    code = fields.get("code")
    if status is None and isinstance(code, int) and code >= 400:
        return error_from_status(code)
    return error_from_status(status, retry_after=retry_after) if status is not None else Overloaded()


def retry_delay_of(error: Any) -> float | None:
    """Return the seconds of an error object's `RetryInfo`, which Google sends in place of a Retry-After header."""
    for detail in _details_of(error):
        delay = str(detail.get("retryDelay", ""))
        if delay.endswith("s"):
            try:
                return max(0.0, float(delay[:-1]))
            except ValueError:
                pass
    return None


def _details_of(error: Any) -> list[dict[str, Any]]:
    details = error.get("details") if isinstance(error, dict) else None
    return [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []


def body_of(request: ModelRequest) -> dict[str, Any]:
    """Return the request as the provider's API names it."""
    generation: dict[str, Any] = {"maxOutputTokens": request.max_output}  # thoughts included
    thinking: dict[str, Any] = {"includeThoughts": True} if request.reasons else {}
    if request.effort:
        thinking["thinkingLevel"] = request.effort.upper()
    if thinking:
        generation["thinkingConfig"] = thinking
    body: dict[str, Any] = {
        "contents": [
            {"role": "model" if message.role == "assistant" else "user", "parts": _parts_of(message)}
            for message in request.messages
            if message.role != "system"
        ],
        "generationConfig": generation,
    }
    if system := [{"text": message.text} for message in request.messages if message.role == "system"]:
        body["systemInstruction"] = {"parts": system}
    return body


def _parts_of(message: Message) -> list[dict[str, Any]]:
    """Return files, then text."""
    files = [{"inlineData": {"mimeType": file.media_type, "data": file.base64}} for file in message.files]
    return [*files, {"text": message.text}]
