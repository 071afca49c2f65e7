"""Google's Gemini: `streamGenerateContent` as server-sent events.

https://ai.google.dev/api/generate-content
"""

import re
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import quote

import msgspec

from chat.llm.providers.base import (
    AnswerOptions,
    Event,
    Finish,
    FinishReason,
    Message,
    ModelRequest,
    TokenUsage,
    Tool,
    ToolCall,
    ToolCallPart,
)
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
from chat.llm.providers.tool_calls import StreamedCalls, arguments_of, with_acceptable_ids

NO_SIGNATURE = "skip_thought_signature_validator"
"""Stands for the signature of a thought that led to a call, where nobody has it. Google documents it for histories that
its models did not write.

https://ai.google.dev/gemini-api/docs/thought-signatures
"""

_WITHOUT_SIGNATURES = re.compile(r"gemini-[12]\b")


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
    answer = _GeminiAnswer(offers_tools=bool(request.options.tools))
    return stream_answer(answer, request, url, headers=headers, body_of=body_of)


class _GeminiAnswer(Answer[_Chunk]):
    """It ends with the connection: the last event is not marked."""

    __slots__ = ("calls", "calls_tool", "report")

    decoder = msgspec.json.Decoder(_Chunk)

    def __init__(self, *, offers_tools: bool) -> None:
        super().__init__(offers_tools=offers_tools)
        self.calls = StreamedCalls()
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
                    if self.offers_tools:
                        self.tool_calls += whole_call(self.calls, part.function_call)
            break
        return text, reasoning

    def finish(self) -> Finish | None:
        if self.reason is None:
            return None
        reason = gemini_finish_reason(self.reason, calls_tool=self.calls_tool, offers_tools=self.offers_tools)
        return Finish(reason, gemini_usage(self.report))

    def error_of(self, status: int, body: Any, retry_after: float | None) -> ProviderError:
        if isinstance(body, list) and body:  # without `alt=sse`, and from some proxies with it
            body = body[0]
        error = body.get("error") if isinstance(body, dict) else None
        return _parse_error(error, status=status, retry_after=retry_after)


def whole_call(calls: StreamedCalls, function_call: Any) -> list[ToolCallPart]:
    """Return a call, which comes in one part; nothing if it has no name. Not every model gives its calls ids."""
    fields = function_call if isinstance(function_call, dict) else {}
    if not fields.get("name"):
        return []
    return [calls.begin(fields.get("id"), fields["name"], fields.get("args") or "{}")]


def gemini_finish_reason(reason: str, *, calls_tool: bool, offers_tools: bool) -> FinishReason:
    """Return what a `finishReason` means; after a tool call it is `STOP`."""
    if reason in _FILTERS:
        return "content_filter"
    if offers_tools and reason == "MAX_TOKENS":
        return "length"
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
    """Return the request as the provider's API names it. Its models take no penalties."""
    messages, options = with_acceptable_ids(request.messages), request.options
    generation: dict[str, Any] = {"maxOutputTokens": request.max_output}  # thoughts included
    thinking: dict[str, Any] = {"includeThoughts": True} if request.reasons else {}
    if request.effort:
        thinking["thinkingLevel"] = request.effort.upper()
    if thinking:
        generation["thinkingConfig"] = thinking
    body: dict[str, Any] = {
        "contents": _contents(messages, request.model),
        "generationConfig": generation | _generation_of(options),
    }
    if system := [{"text": message.text} for message in messages if message.role == "system"]:
        body["systemInstruction"] = {"parts": system}
    if options.tools:
        body["tools"] = [{"functionDeclarations": [*map(_declaration, options.tools)]}]
        choice, _, name = options.tool_choice.partition(":")
        if choice:
            allowed = {"allowedFunctionNames": [name]} if name else {}
            mode = {"auto": "AUTO", "none": "NONE"}.get(choice, "ANY")
            body["toolConfig"] = {"functionCallingConfig": {"mode": mode, **allowed}}
    return body


def _generation_of(options: AnswerOptions) -> dict[str, Any]:
    asked = {
        "temperature": options.temperature,
        "topP": options.top_p,
        "seed": None if options.seed is None else options.seed % 2**31,  # it takes no more bits
        "stopSequences": list(options.stop) or None,
        "responseMimeType": "application/json" if options.json else None,
        "responseJsonSchema": options.json.schema if options.json else None,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _declaration(tool: Tool) -> dict[str, Any]:
    parts = {"description": tool.description or None, "parametersJsonSchema": tool.parameters}
    return {"name": tool.name, **{name: value for name, value in parts.items() if value is not None}}


def _contents(messages: tuple[Message, ...], model: str) -> list[dict[str, Any]]:
    """Return the messages but the system's. The results of one turn's calls are together, and without anything else."""
    contents: list[dict[str, Any]] = []
    results: list[dict[str, Any]] | None = None
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    for message in messages:
        if message.role == "tool":
            if results is None:
                results = []
                contents.append({"role": "user", "parts": results})
            results += _result_parts(message, names.get(message.tool_call_id, ""))
        elif message.role != "system":
            results = None
            if parts := _parts_of(message, is_signed=not _WITHOUT_SIGNATURES.search(model)):
                contents.append({"role": "model" if message.role == "assistant" else "user", "parts": parts})
    return contents


def _parts_of(message: Message, *, is_signed: bool) -> list[dict[str, Any]]:
    """Return files, then text, then calls of tools, the first of which is signed."""
    text = [{"text": message.text}] if message.text or not message.tool_calls else []
    calls = [*map(_call_part, message.tool_calls)]
    if calls and is_signed:
        calls[0]["thoughtSignature"] = NO_SIGNATURE
    return [*_file_parts(message), *text, *calls]


def _file_parts(message: Message) -> list[dict[str, Any]]:
    return [{"inlineData": {"mimeType": file.media_type, "data": file.base64}} for file in message.files]


def _call_part(call: ToolCall) -> dict[str, Any]:
    return {"functionCall": {"id": call.id, "name": call.name, "args": arguments_of(call)}}


def _result_parts(message: Message, name: str) -> list[dict[str, Any]]:
    response = {"id": message.tool_call_id, "name": name, "response": {"output": message.text}}
    return [{"functionResponse": response}, *_file_parts(message)]
