"""A provider without a network, for tests: it does what the last message says.

The question is a script of words: `say:hola` yields text, `think:x` yields reasoning, `wait:0.1` sleeps seconds,
`fail:timeout` raises that error, `end:length` sets the finish reason, `usage:12/34` reports input and output tokens,
`call:name/{"a":1}` calls a tool if there are any, `tell` says the messages and options it got, as JSON.
"""

import asyncio
from collections.abc import AsyncGenerator

import msgspec

from chat.llm.providers import errors
from chat.llm.providers.base import Delta, Event, Finish, ModelRequest, TokenUsage, ToolCallPart

KINDS = {kind.code: kind for kind in errors.ProviderError.__subclasses__()}


async def stream(request: ModelRequest) -> AsyncGenerator[Event]:
    request.note_sent()
    reason, usage, calls = "stop", None, 0
    asked = next(message.text for message in reversed(request.messages) if message.role == "user")
    for word in asked.split():
        verb, _, value = word.partition(":")
        match verb:
            case "say":
                yield Delta(text=value + " ")
            case "think":
                yield Delta(reasoning=value + " ")
            case "wait":
                await asyncio.sleep(float(value))
            case "fail":
                raise KINDS[value]
            case "call" if request.options.tools:
                name, _, arguments = value.partition("/")
                yield Delta(tool_calls=(ToolCallPart(calls, f"call_{calls}", name, arguments[:4]),))
                yield Delta(tool_calls=(ToolCallPart(calls, arguments=arguments[4:]),))
                reason, calls = "tool_call", calls + 1
            case "tell":
                yield Delta(text=msgspec.json.encode([request.messages, request.options]).decode())
            case "end":
                reason = value
            case "usage":
                read, written = value.split("/")
                usage = TokenUsage(input=int(read), output=int(written))
    yield Finish(reason, usage)  # type: ignore[arg-type]
