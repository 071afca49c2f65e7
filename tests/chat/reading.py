"""What somebody made of an answer."""

from collections.abc import AsyncIterator
from dataclasses import astuple, dataclass, field, replace

from chat.llm.providers.base import Delta, Event, Finish, ToolCall, ToolCallPart
from chat.llm.providers.errors import ProviderError


@dataclass
class Read:
    """`usage` is input, output, cached, written, reasoning."""

    text: str = ""
    reasoning: str = ""
    finish: str | None = None
    usage: tuple[int, ...] | None = None
    error: str = ""
    retry_after: float | None = None
    calls: list[ToolCall] = field(default_factory=list)

    def add(self, part: ToolCallPart) -> None:
        """Put a part to its call. None is empty, only the first has an id, and calls are numbered as they begin."""
        assert part.id or part.name or part.arguments
        (part.id + part.name + part.arguments).encode()
        if part.index == len(self.calls):
            assert part.id
            self.calls.append(ToolCall(part.id, part.name, part.arguments))
            return
        call = self.calls[part.index]
        assert not part.id
        assert not (part.name and call.name)
        self.calls[part.index] = replace(call, name=call.name + part.name, arguments=call.arguments + part.arguments)


async def read(events: AsyncIterator[Event]) -> Read:
    """Read to the end, or to the error."""
    found = Read()
    try:
        async for event in events:
            match event:
                case Delta():
                    (event.text + event.reasoning).encode()  # whole characters alone
                    found.text += event.text
                    found.reasoning += event.reasoning
                    for part in event.tool_calls:
                        found.add(part)
                case Finish(reason, usage):
                    found.finish = reason
                    found.usage = usage and astuple(usage)
    except ProviderError as error:
        found.error, found.retry_after = error.code, error.retry_after
    return found
