"""Google's Gemini: `streamGenerateContent` as server-sent events.

https://ai.google.dev/api/generate-content
"""

from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import quote

import msgspec

from chat.llm.providers.base import Event, Finish, FinishReason, Message, ModelRequest, TokenUsage
from chat.llm.providers.counts import NoReport, detail_of, total_of
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
from chat.llm.providers.streaming import Answer, is_said, status_of, stream_answer, words_of


class _Part(msgspec.Struct, rename="camel", gc=False):
    text: str | None = None
    thought: bool | None = None
    function_call: Any = None


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel", gc=False):
    index: Any = 0
    content: _Content | None = None
    finish_reason: str | None = None


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class _Chunk(msgspec.Struct, rename="camel", gc=False):
    candidates: list[_Candidate] | None = None
    usage_metadata: Any = None
    prompt_feedback: _Feedback | None = None
    error: Any = None


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


class _GeminiAnswer(Answer[_Chunk]):
    """It ends with the connection: the last event is not marked."""

    __slots__ = ("calls_tool", "report")

    decoder = msgspec.json.Decoder(_Chunk)

    def __init__(self) -> None:
        super().__init__()
        self.calls_tool = False
        self.report: Any = None  # of its tokens

    def read(self, event: _Chunk) -> tuple[str, str]:
        if event.error and is_said(event.error):
            raise _parse_error(event.error, status=None)
        if event.usage_metadata is not None:
            self.report = event.usage_metadata
        if event.prompt_feedback is not None and event.prompt_feedback.block_reason:
            self.reason = "SAFETY"
        text = reasoning = ""
        for candidate in event.candidates or ():
            if candidate.index:  # another answer to the same question
                continue
            if candidate.finish_reason:
                self.reason = candidate.finish_reason
            for part in (candidate.content and candidate.content.parts) or ():
                if part.thought:
                    reasoning += part.text or ""
                else:
                    text += part.text or ""
                if part.function_call is not None:
                    self.calls_tool = True
            break
        return text, reasoning

    def finish(self) -> Finish | None:
        if self.reason is None:
            return None
        return Finish(gemini_finish_reason(self.reason, calls_tool=self.calls_tool), gemini_usage(self.report))

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
    details = _details_of(error)
    name, message, code = words_of(error, "status", "message", "code")
    message = message.lower()
    if any(detail.get("reason") == "API_KEY_INVALID" for detail in details) or "api key not valid" in message:
        return AuthenticationFailed(status=status)  # a 400
    if name == "INVALID_ARGUMENT" and "token" in message and ("exceed" in message or "too long" in message):
        return PromptTooLong(status=status)
    if found := _ERRORS.get(name):
        return found(status=status, retry_after=retry_after if retry_after is not None else retry_delay_of(error))
    if status is None and (status_in := status_of(code)):
        return error_from_status(status_in)
    return error_from_status(status, retry_after=retry_after) if status is not None else Overloaded()


def retry_delay_of(error: Any) -> float | None:
    """Return the seconds of an error object's `RetryInfo`, which Google sends in place of a Retry-After header."""
    for detail in _details_of(error):
        [delay] = words_of(detail, "retryDelay")
        if delay.endswith("s"):
            try:
                return float(delay[:-1])
            except ValueError:
                pass
    return None


def gemini_usage(report: Any) -> TokenUsage | None:
    """Return the tokens that a report counts; None if it does not say how many there were in all.

    What was read from the cache is in the prompt's; thoughts are not in the candidates', which are left out where
    there are none.
    """
    try:
        thoughts = detail_of(report, "thoughtsTokenCount")
        return TokenUsage(
            input=total_of(report, "promptTokenCount"),
            output=total_of({"candidatesTokenCount": 0} | report, "candidatesTokenCount") + thoughts,
            cache_read=detail_of(report, "cachedContentTokenCount"),
            reasoning=thoughts,
        )
    except NoReport:
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
