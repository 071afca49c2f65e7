"""Anthropic's messages.

https://platform.claude.com/docs/en/api/messages-streaming
"""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from chat.llm.providers.base import Event, File, Finish, FinishReason, Message, ModelRequest, TokenUsage
from chat.llm.providers.counts import NoReport, detail_of, details_of, total_of
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
from chat.llm.providers.streaming import NO_TEXT, Answer, stream_answer, words_of
from chat.provider_registry import NO_EFFORT

VERSION = "2026-10-21"


class _Message(msgspec.Struct):
    usage: Any = None


class _Part(msgspec.Struct, gc=False):
    """What a `content_block_start`, a `content_block_delta` or a `message_delta` carries."""

    text: str | None = None
    thinking: str | None = None
    stop_reason: str | None = None


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    delta: _Part | None = None
    content_block: _Part | None = None
    message: _Message | None = None
    usage: Any = None
    error: Any = None


FINISH: dict[str, FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
    "tool_use": "tool_call",
    "pause_turn": "tool_call",  # to be asked again with what a tool of the provider's has found
}
"""What a `stop_reason` means, where it is not the end of an answer."""

_ERRORS: dict[str, type[ProviderError]] = {
    "authentication_error": AuthenticationFailed,
    "billing_error": PermissionRefused,
    "permission_error": PermissionRefused,
    "not_found_error": ModelNotFound,
    "request_too_large": PromptTooLong,
    "rate_limit_error": ProviderRateLimited,
    "timeout_error": TimedOut,
    "invalid_request_error": BadRequest,
}


def stream(request: ModelRequest) -> AsyncGenerator[Event]:
    url = f"{request.provider.base_url.rstrip('/')}/v1/messages"
    headers = {"Authorization": f"Bearer {request.provider.api_key}", "anthropic-version": VERSION}
    return stream_answer(_MessagesAnswer(), request, url, headers=headers, body_of=body_of)


class Counting:
    """The token counts of an answer: they grow, and a later event may leave some out."""

    __slots__ = ("_report",)

    def __init__(self) -> None:
        self._report: Any = None

    def begin(self, report: Any) -> None:
        """Note what `message_start` counts. Of the output that is only its first token."""
        self._report = {**report, "output_tokens": None} if isinstance(report, dict) else report

    def go_on(self, report: Any) -> None:
        """Note what `message_delta` counts."""
        if isinstance(self._report, dict) and isinstance(report, dict):
            self._report |= {name: count for name, count in report.items() if count is not None}
        elif report is not None:
            self._report = report

    def usage(self) -> TokenUsage | None:
        """Return the tokens so far; None if the reports do not say how many there were in all."""
        report = self._report
        try:
            read, written = (detail_of(report, f"cache_{name}_input_tokens") for name in ("read", "creation"))
            return TokenUsage(
                input=total_of(report, "input_tokens") + read + written,  # which are not in it
                output=total_of(report, "output_tokens"),
                cache_read=read,
                cache_write=written,
                reasoning=detail_of(details_of(report, "output_tokens_details"), "thinking_tokens"),
            )
        except NoReport:
            return None


class _MessagesAnswer(Answer[_Event]):
    __slots__ = ("counting",)

    decoder = msgspec.json.Decoder(_Event)

    def __init__(self) -> None:
        super().__init__()
        self.counting = Counting()

    def read(self, event: _Event) -> tuple[str, str]:
        match event.type:
            case "content_block_delta" | "content_block_start":
                part = event.delta or event.content_block
                return (part.text or "", part.thinking or "") if part else NO_TEXT
            case "message_start" if event.message:
                self.counting.begin(event.message.usage)
            case "message_delta":
                self.counting.go_on(event.usage)
                if event.delta and event.delta.stop_reason:
                    self.reason = event.delta.stop_reason
            case "message_stop":
                self.is_done = True
            case "error":
                raise _parse_error(event.error, status=None)
        return NO_TEXT

    def finish(self) -> Finish | None:
        if self.reason is None:
            return None
        return Finish(FINISH.get(self.reason, "stop"), self.counting.usage())

    def error_of(self, status: int, body: Any, retry_after: float | None) -> ProviderError:
        error = body.get("error") if isinstance(body, dict) else None
        return _parse_error(error, status=status, retry_after=retry_after)


def _parse_error(error: Any, *, status: int | None, retry_after: float | None = None) -> ProviderError:
    """Return the error an Anthropic error object (`type`, `message`) means, with the HTTP status if it had one."""
    kind, message = words_of(error, "type", "message")
    message = message.lower()
    if kind == "invalid_request_error" and ("prompt is too long" in message or "context window" in message):
        return PromptTooLong(status=status)
    if kind == "invalid_request_error" and "credit balance" in message:  # no credit left: waiting does not help
        return PermissionRefused(status=status)
    if found := _ERRORS.get(kind):
        return found(status=status, retry_after=retry_after)
    if status is not None:
        return error_from_status(status, retry_after=retry_after)
    return Overloaded()


def body_of(request: ModelRequest) -> dict[str, Any]:
    """Return the request as the provider's API names it."""
    system = "\n\n".join(message.text for message in request.messages if message.role == "system")
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_output,
        "messages": [
            {"role": message.role, "content": _content_of(message)}
            for message in request.messages
            if message.role != "system"
        ],
        "stream": True,
        "cache_control": {"type": "ephemeral"},  # this prompt is a prefix of the next one
    }
    if system:
        body["system"] = system
    if request.effort in NO_EFFORT:
        body["thinking"] = {"type": "disabled"}
    elif request.reasons:
        body["thinking"] = {"type": "adaptive", "display": "summarized"}
    if request.effort and request.effort not in NO_EFFORT:
        body["output_config"] = {"effort": request.effort}
    if request.end_user:
        body["metadata"] = {"user_id": request.end_user}
    return body


def _content_of(message: Message) -> str | list[dict[str, Any]]:
    """Return files, then text: a question about a file is understood better after it."""
    if not message.files:
        return message.text
    return [*map(_file_block, message.files), {"type": "text", "text": message.text}]


def _file_block(file: File) -> dict[str, Any]:
    source = {"type": "base64", "media_type": file.media_type, "data": file.base64}
    if file.kind == "image":
        return {"type": "image", "source": source}
    return {"type": "document", "source": source, "title": file.name}
