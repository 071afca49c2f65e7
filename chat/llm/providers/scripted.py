"""A provider without a network, for tests: it does what the last message says.

The question is a script of words: `say:hola` yields text, `think:x` yields reasoning, `wait:0.1` sleeps seconds,
`fail:timeout` raises that error, `end:length` sets the finish reason, `usage:12/34` reports input and output tokens.
"""

import asyncio
from collections.abc import AsyncGenerator

from chat.llm.providers import errors
from chat.llm.providers.base import Delta, Event, Finish, ModelRequest, TokenUsage

KINDS = {kind.code: kind for kind in errors.ProviderError.__subclasses__()}


async def stream(request: ModelRequest) -> AsyncGenerator[Event]:
    request.note_sent()
    reason, usage = "stop", None
    for word in request.messages[-1].text.split():
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
            case "end":
                reason = value
            case "usage":
                read, written = value.split("/")
                usage = TokenUsage(input=int(read), output=int(written))
    yield Finish(reason, usage)  # type: ignore[arg-type]
