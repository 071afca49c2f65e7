"""OpenAI's chat completions: OpenAI, DeepSeek, Ollama, vLLM, llama.cpp, OpenRouter and the like.

https://platform.openai.com/docs/api-reference/chat/create
"""

from collections.abc import AsyncGenerator, Iterable
from typing import Any

import msgspec

from chat.llm.providers.base import (
    Event,
    File,
    Finish,
    FinishReason,
    JsonSchema,
    Message,
    ModelRequest,
    TokenUsage,
    Tool,
    ToolCall,
)
from chat.llm.providers.counts import NoReport, detail_of, details_of, total_of
from chat.llm.providers.errors import (
    BadResponse,
    ContentFiltered,
    Overloaded,
    PermissionRefused,
    PromptTooLong,
    ProviderError,
    ProviderRateLimited,
    TimedOut,
    error_from_status,
)
from chat.llm.providers.streaming import NO_TEXT, Answer, is_said, status_of, stream_answer, words_of
from chat.llm.providers.tool_calls import (
    StreamedCalls,
    arguments_of,
    as_json,
    find_arguments,
    json_instruction,
    with_acceptable_ids,
)


class _Delta(msgspec.Struct, gc=False):
    content: str | list[Any] | None = None
    reasoning_content: Any = None  # DeepSeek, llama.cpp, vLLM
    reasoning: Any = None  # OpenRouter, newer vLLM
    refusal: str | None = None
    tool_calls: Any = None


class _Choice(msgspec.Struct, gc=False):
    index: Any = 0
    delta: _Delta | None = None
    finish_reason: Any = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


UNKNOWN_TO_SDK = frozenset(("thinking",))
"""Parameters that OpenAI does not have, and its SDK does not know."""

_FINISH: dict[str, FinishReason] = {
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_call",
    "function_call": "tool_call",
}


def stream(request: ModelRequest) -> AsyncGenerator[Event]:
    url = f"{request.provider.base_url.rstrip('/')}/chat/completions"
    answer = _ChatAnswer(offers_tools=bool(request.options.tools))
    return stream_answer(answer, request, url, headers=_headers(request), body_of=body_of)


class _ChatAnswer(Answer[_Chunk]):
    __slots__ = ("calls", "has_text", "instead", "report")

    decoder = msgspec.json.Decoder(_Chunk)

    def __init__(self, *, offers_tools: bool) -> None:
        super().__init__(offers_tools=offers_tools)
        self.calls = StreamedCalls()
        self.instead: FinishReason | None = None  # what came in place of an answer
        self.report: Any = None  # of its tokens
        self.has_text = False  # a refusal that follows is a paragraph of its own

    def read(self, event: _Chunk) -> tuple[str, str]:
        if event.error and is_said(event.error):
            raise _parse_error(event.error, status=None)
        if event.usage is not None:
            self.report = event.usage
        for choice in event.choices or ():
            if choice.index:  # another answer to the same question
                continue
            if choice.finish_reason:
                self.reason = str(choice.finish_reason)
            if (delta := choice.delta) is None:
                break
            if delta.refusal and self.has_text and self.instead != "refusal":
                delta.refusal = f"\n\n{delta.refusal}"
            if delta.refusal or (delta.tool_calls and is_said(delta.tool_calls)):
                self.instead = "refusal" if delta.refusal else "tool_call"
                if self.offers_tools and delta.tool_calls:
                    self.tool_calls += self.calls.read(delta.tool_calls)
            content = delta.content if isinstance(delta.content, str) else text_of(delta.content)
            self.has_text = self.has_text or bool(content)
            thought = delta.reasoning_content or delta.reasoning or ""
            return content or delta.refusal or "", thought if isinstance(thought, str) else thought_of(thought)
        return NO_TEXT

    def finish(self) -> Finish | None:
        if self.reason is None:
            return None
        reason = openai_finish_reason(self.reason, self.instead, offers_tools=self.offers_tools)
        return Finish(reason, openai_usage(self.report))

    def error_of(self, status: int, body: Any, retry_after: float | None) -> ProviderError:
        error = body.get("error") if isinstance(body, dict) else None
        return _parse_error(error, status=status, retry_after=retry_after)


def openai_finish_reason(reason: str, instead: FinishReason | None, *, offers_tools: bool) -> FinishReason:
    """Return what a `finish_reason` means; raises Overloaded where the provider gave up.

    `instead` is what came in place of an answer: after a refusal, and for some servers after a tool call, the reason is
    `stop`. A call of a tool that was offered may be cut off as a text is.
    """
    if reason == "insufficient_system_resource":  # DeepSeek
        raise Overloaded
    found = _FINISH.get(reason, "stop")
    is_cut_call = offers_tools and instead == "tool_call" and found == "length"
    return found if found == "content_filter" or is_cut_call else instead or found


def text_of(content: Any) -> str:
    """Return the text of a delta's content, which some servers send as a list of parts. Raises BadResponse."""
    if isinstance(content, list):
        return "".join(text_of(part.get("text")) for part in content if isinstance(part, dict))
    if content is None or isinstance(content, str):
        return content or ""
    raise BadResponse


def thought_of(reasoning: Any) -> str:
    """Return the text of a delta's reasoning; what has no text must not cost the answer beside it."""
    try:
        return text_of(reasoning)
    except BadResponse:
        return ""


def openai_usage(report: Any) -> TokenUsage | None:
    """Return the tokens that a report counts; None if it does not say how many there were in all."""
    try:
        for_input = details_of(report, "prompt_tokens_details")
        return TokenUsage(
            input=total_of(report, "prompt_tokens"),
            output=total_of(report, "completion_tokens"),
            cache_read=detail_of(for_input, "cached_tokens")
            or detail_of(report, "prompt_cache_hit_tokens"),  # DeepSeek
            cache_write=detail_of(for_input, "cache_write_tokens"),
            reasoning=detail_of(details_of(report, "completion_tokens_details"), "reasoning_tokens"),
        )
    except NoReport:
        return None


def body_of(request: ModelRequest) -> dict[str, Any]:
    """Return the request as the provider's API names it."""
    parameters = request.provider.parameters
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [_message(message, parameters.system_role) for message in _messages_of(request)],
        "stream": True,
        "stream_options": {"include_usage": True},
        request.max_tokens_parameter: request.max_output,
    }
    if parameters.cache_key_parameter:
        body[parameters.cache_key_parameter] = request.cache_key
    if parameters.end_user_parameter:
        body[parameters.end_user_parameter] = request.end_user
    return body | _effort_of(request) | _sampling_of(request) | _tools_of(request) | _format_of(request)


def _messages_of(request: ModelRequest) -> tuple[Message, ...]:
    """Return the messages, with what a provider has to be told that takes no schema."""
    messages, wanted = with_acceptable_ids(request.messages), request.options.json
    if wanted is None or wanted.schema is None or request.provider.parameters.takes_schemas:
        return messages
    first = next((at for at, message in enumerate(messages) if message.role != "system"), len(messages))
    return (*messages[:first], Message("system", json_instruction(wanted)), *messages[first:])


def _message(message: Message, system_role: str) -> dict[str, Any]:
    content = _content_of(message)
    if message.tool_calls:
        return {"role": message.role, "content": content or None, "tool_calls": [*map(_call, message.tool_calls)]}
    if message.role == "tool":
        return {"role": message.role, "tool_call_id": message.tool_call_id, "content": content}
    return {"role": system_role if message.role == "system" else message.role, "content": content}


def _content_of(message: Message) -> str | list[dict[str, Any]]:
    """Return files, then text; without files plain text, as not every server reads the list form."""
    if not message.files:
        return message.text
    return [*map(_file_part, message.files), {"type": "text", "text": message.text}]


def _call(call: ToolCall) -> dict[str, Any]:
    """Return a call. Some servers refuse arguments that are no object, though their models write them."""
    is_object = find_arguments(call) is not None
    function = {"name": call.name, "arguments": call.arguments if is_object else as_json(arguments_of(call))}
    return {"id": call.id, "type": "function", "function": function}


def _effort_of(request: ModelRequest) -> dict[str, Any]:
    """Return how hard to think. DeepSeek's thoughts would have to be given back with its calls of tools, and cannot be
    forced to make one; OpenAI's newer models do not think here where they are offered tools."""
    parameters, options = request.provider.parameters, request.options
    if parameters.effort_parameter == "thinking":
        is_forced = bool(options.tools) and options.tool_choice not in ("", "auto", "none")
        if is_forced or any(message.tool_calls for message in request.messages):
            return {"thinking": {"type": "disabled"}}
        is_off = request.effort == "none"
        return {"thinking": {"type": "disabled" if is_off else "enabled"}} if request.effort else {}
    effort = request.effort
    if options.tools and request.reasons and not f"{request.model}-".startswith(parameters.reason_with_tools):
        effort = parameters.effort_with_tools or effort
    return {"reasoning_effort": effort} if effort else {}


def _sampling_of(request: ModelRequest) -> dict[str, Any]:
    options = request.options
    asked = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "stop": list(options.stop) or None,
    }
    if request.reasons and not request.provider.parameters.samples_while_reasoning:
        asked = {}
    return _said(asked | {"seed": options.seed})


def _tools_of(request: ModelRequest) -> dict[str, Any]:
    options = request.options
    if not options.tools:
        return {}
    asked: dict[str, Any] = {"tools": [{"type": "function", "function": _function(tool)} for tool in options.tools]}
    choice, _, name = options.tool_choice.partition(":")
    if choice:
        asked["tool_choice"] = {"type": "function", "function": {"name": name}} if name else choice
    if options.parallel_tool_calls is not None:
        asked["parallel_tool_calls"] = options.parallel_tool_calls
    return asked


def _function(tool: Tool) -> dict[str, Any]:
    parts = {"description": tool.description or None, "parameters": tool.parameters, "strict": tool.is_strict}
    return {"name": tool.name, **_said(parts)}


def _format_of(request: ModelRequest) -> dict[str, Any]:
    wanted = request.options.json
    if wanted is None:
        return {}
    if wanted.schema is None or not request.provider.parameters.takes_schemas:
        return {"response_format": {"type": "json_object"}}
    return {"response_format": {"type": "json_schema", "json_schema": _schema(wanted)}}


def _schema(wanted: JsonSchema) -> dict[str, Any]:
    parts = {"description": wanted.description or None, "schema": wanted.schema, "strict": wanted.is_strict}
    return {"name": wanted.name or "answer", **_said(parts)}


def _said(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _file_part(file: File) -> dict[str, Any]:
    if file.kind == "image":
        return {"type": "image_url", "image_url": {"url": file.url}}
    return {"type": "file", "file": {"filename": file.name, "file_data": file.url}}


def _headers(request: ModelRequest) -> dict[str, str]:
    return {"Authorization": f"Bearer {request.provider.api_key}"} if request.provider.api_key else {}


def _parse_error(error: Any, *, status: int | None, retry_after: float | None = None) -> ProviderError:
    """Return the error an OpenAI error object (`code`, `type`, `message`) means, with the HTTP status if it had one."""
    code, kind, message = words_of(error, "code", "type", "message")
    codes, message = {code, kind}, message.lower()
    too_long = "maximum context length" in message or "request too large" in message  # the latter for a minute's tokens
    if too_long or codes & {"context_length_exceeded", "exceed_context_size_error"}:
        return PromptTooLong(status=status)
    if "insufficient_quota" in codes:  # no credit left: waiting does not help
        return PermissionRefused(status=status)
    if codes & {"content_filter", "content_policy_violation"}:
        return ContentFiltered(status=status)
    if status is not None:
        return error_from_status(status, retry_after=retry_after)
    if status_in := status_of(code):  # OpenRouter
        return error_from_status(status_in)
    return _error_in_stream(codes)


def _error_in_stream(codes: Iterable[str]) -> ProviderError:
    """Return the error that an event inside a stream means by its codes, as it has no status."""
    joined = " ".join(codes)
    for part, error in (("rate_limit", ProviderRateLimited), ("timeout", TimedOut)):
        if part in joined:
            return error()
    return Overloaded()
