"""Anthropic's messages.

https://platform.claude.com/docs/en/api/messages-streaming
"""

from collections.abc import AsyncGenerator, Iterable
from typing import Any

import msgspec

from chat.llm.providers.base import (
    Event,
    File,
    Finish,
    FinishReason,
    Message,
    ModelRequest,
    TokenUsage,
    Tool,
    ToolCallPart,
)
from chat.llm.providers.closed_schemas import closed_schema
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
from chat.llm.providers.tool_calls import JSON_INSTRUCTION, StreamedCalls, arguments_of, with_acceptable_ids
from chat.provider_registry import NO_EFFORT

VERSION = "2026-10-21"
NOTHING_SAID = "…"
"""Stands for the question before an answer that comes first."""


class _Message(msgspec.Struct):
    usage: Any = None


class _Part(msgspec.Struct, gc=False):
    """What a `content_block_delta` or a `message_delta` carries."""

    text: str | None = None
    thinking: str | None = None
    stop_reason: str | None = None
    partial_json: Any = None


class _Block(msgspec.Struct, gc=False):
    """What a `content_block_start` carries."""

    text: str | None = None
    thinking: str | None = None
    type: Any = None
    id: Any = None
    name: Any = None
    input: Any = None


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    delta: _Part | None = None
    content_block: _Block | None = None
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
    answer = _MessagesAnswer(offers_tools=bool(request.options.tools))
    return stream_answer(answer, request, url, headers=headers, body_of=body_of)


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


class BlockCalls:
    """The calls of tools in one answer: each is a block, whose arguments come in parts."""

    __slots__ = ("_calls", "_has_arguments", "_is_open")

    def __init__(self) -> None:
        self._calls = StreamedCalls()
        self._is_open = self._has_arguments = False

    def begin(self, kind: Any, call_id: Any, name: Any, arguments: Any) -> list[ToolCallPart]:
        """Return what a block says as it begins: its arguments are an empty object, and come later."""
        self._is_open = kind == "tool_use"
        if not self._is_open:
            return []
        self._has_arguments = bool(arguments)
        return [self._calls.begin(call_id, name, arguments or "")]

    def go_on(self, arguments: Any) -> list[ToolCallPart]:
        part = self._calls.go_on(arguments) if self._is_open else None
        self._has_arguments = self._has_arguments or part is not None
        return [part] if part else []

    def end(self) -> list[ToolCallPart]:
        """Return the arguments of a block that ends without any: an empty object, as for everybody else."""
        parts = [] if self._has_arguments else self.go_on("{}")
        self._is_open = False
        return parts


class _MessagesAnswer(Answer[_Event]):
    __slots__ = ("calls", "counting")

    decoder = msgspec.json.Decoder(_Event)

    def __init__(self, *, offers_tools: bool) -> None:
        super().__init__(offers_tools=offers_tools)
        self.counting = Counting()
        self.calls = BlockCalls()

    def read(self, event: _Event) -> tuple[str, str]:
        match event.type:
            case "content_block_delta" | "content_block_start":
                part = event.delta or event.content_block
                if part is None:
                    return NO_TEXT
                if text := part.text:  # nearly always
                    return text, part.thinking or ""
                if self.offers_tools:
                    self._note_call(part)
                return "", part.thinking or ""
            case "message_start" if event.message:
                self.counting.begin(event.message.usage)
            case "message_delta":
                self.counting.go_on(event.usage)
                if event.delta and event.delta.stop_reason:
                    self.reason = event.delta.stop_reason
            case "message_stop":
                self.is_done = True
            case "content_block_stop" if self.offers_tools:
                self.tool_calls += self.calls.end()
            case "error":
                raise _parse_error(event.error, status=None)
        return NO_TEXT

    def _note_call(self, part: _Part | _Block) -> None:
        if isinstance(part, _Block):
            self.tool_calls += self.calls.begin(part.type, part.id, part.name, part.input)
        elif part.partial_json is not None:
            self.tool_calls += self.calls.go_on(part.partial_json)

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
    """Return the request as the provider's API names it. Temperature, penalties and seed have no name in it."""
    messages, options = with_acceptable_ids(request.messages), request.options
    told = [message.text for message in messages if message.role == "system"]
    system = "\n\n".join(text for text in (*told, *_instructions(request)) if text)
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_output,
        "messages": _turns(messages),
        "stream": True,
        "cache_control": {"type": "ephemeral"},  # this prompt is a prefix of the next one
    }
    if system:
        body["system"] = system
    if request.effort in NO_EFFORT:
        body["thinking"] = {"type": "disabled"}
    elif request.reasons:
        body["thinking"] = {"type": "adaptive", "display": "summarized"}
    output: dict[str, Any] = {"effort": request.effort} if request.effort and request.effort not in NO_EFFORT else {}
    if options.json and options.json.schema is not None:
        output |= {"format": {"type": "json_schema", "schema": closed_schema(options.json.schema)}}
    if output:
        body["output_config"] = output
    if request.end_user:
        body["metadata"] = {"user_id": request.end_user}
    if stop := [text for text in options.stop if text.strip()]:  # it refuses blanks
        body["stop_sequences"] = stop
    return body | _tools_of(request)


def _instructions(request: ModelRequest) -> list[str]:
    """Return what a model is told in words, as there is no parameter for it."""
    options, instructions = request.options, []
    if options.json and options.json.schema is None:
        instructions.append(JSON_INSTRUCTION)
    choice, _, name = options.tool_choice.partition(":")
    if options.tools and _is_forced(choice) and request.reasons:
        wanted = f"the tool `{name}`" if name else "one or more of your tools"
        instructions.append(f"Your next answer has to be a call of {wanted}, without any text.")
    return instructions


def _is_forced(choice: str) -> bool:
    return choice in ("required", "tool")


def _turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Return the messages but the system's. Results of tools are one turn, with the question that follows them; of
    other turns several may follow each other. Nothing may be blank."""
    turns: list[dict[str, Any]] = []
    results: list[dict[str, Any]] | None = None
    for message in messages:
        if message.role == "system":
            continue
        if message.role == "tool":
            if results is None:
                results = []
                turns.append({"role": "user", "content": results})
            results.append(_result(message))
        elif message.role == "user" and results is not None:
            results += _blocks(message)
        else:
            results = None
            if message.files or message.tool_calls:
                turns.append({"role": message.role, "content": _blocks(message)})
            elif message.text.strip():
                turns.append({"role": message.role, "content": message.text})
    if not turns or turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": NOTHING_SAID})
    return turns


def _blocks(message: Message) -> list[dict[str, Any]]:
    """Return files, then text: a question about a file is understood better after it. Calls of tools come last."""
    text = [{"type": "text", "text": message.text}] if message.text.strip() else []
    calls = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments_of(call)}
        for call in message.tool_calls
    ]
    return [*map(_file_block, message.files), *text, *calls]


def _result(message: Message) -> dict[str, Any]:
    content = _blocks(message) if message.files else message.text
    result = {"type": "tool_result", "tool_use_id": message.tool_call_id}
    return result | {"content": content} if message.files or message.text.strip() else result


def _tools_of(request: ModelRequest) -> dict[str, Any]:
    """Return the tools, and which of them to use.

    A model that thinks refuses to be forced, and is told so in words. Tools that were called have to be there, though
    none is offered any more. `strict` is not sent: such tools have to be few, and their schemas simple.
    """
    options = request.options
    if not options.tools:
        called = {call.name: None for message in request.messages for call in message.tool_calls}
        tools = [{"name": name, "input_schema": {"type": "object"}} for name in called]
        return {"tools": tools, "tool_choice": {"type": "none"}} if tools else {}
    asked: dict[str, Any] = {"tools": [*map(_tool, options.tools)]}
    choice, _, name = options.tool_choice.partition(":")
    kind = "auto" if request.reasons and _is_forced(choice) else {"required": "any"}.get(choice, choice)
    if options.parallel_tool_calls is False and kind != "none":
        asked["tool_choice"] = {"type": kind or "auto", "disable_parallel_tool_use": True}
    elif kind:
        asked["tool_choice"] = {"type": kind}
    if kind == "tool":
        asked["tool_choice"]["name"] = name
    return asked


def _tool(tool: Tool) -> dict[str, Any]:
    described = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **described, "input_schema": {"type": "object", **(tool.parameters or {})}}


def _file_block(file: File) -> dict[str, Any]:
    source = {"type": "base64", "media_type": file.media_type, "data": file.base64}
    if file.kind == "image":
        return {"type": "image", "source": source}
    return {"type": "document", "source": source, "title": file.name}
