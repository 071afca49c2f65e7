"""What somebody made of an answer."""

from collections.abc import AsyncIterator
from dataclasses import astuple, dataclass

from chat.llm.providers.base import Delta, Event, Finish
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
                case Finish(reason, usage):
                    found.finish = reason
                    found.usage = usage and astuple(usage)
    except ProviderError as error:
        found.error, found.retry_after = error.code, error.retry_after
    return found
