"""What all wire formats share: a request in, deltas and one finish out. Pure values; nothing here does I/O."""

from binascii import b2a_base64
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from chat.provider_registry import ChatParameters


@dataclass(frozen=True, slots=True)
class Provider:
    """A configured provider, and how to reach it.

    A request carries one API key, `api_key`; `api_keys` are all the operator has.
    """

    slug: str
    name: str
    adapter: str
    base_url: str
    api_key: str = field(default="", repr=False)
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    parameters: ChatParameters = ChatParameters()

    def with_each_api_key(self) -> tuple["Provider", ...]:
        """Return this provider once for each of its API keys."""
        if len(self.api_keys) < 2:
            return (self,)
        return tuple(replace(self, api_key=api_key) for api_key in self.api_keys)


BASE64_CHUNK_BYTES = 384 * 1024
"""A multiple of three. Encoding this much keeps other threads waiting for 0.5 ms."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of a question, as the model takes it."""

    kind: Literal["image", "pdf"]
    media_type: str
    name: str
    data: bytes = field(repr=False)

    @property
    def base64(self) -> str:
        parts = (self.data[at : at + BASE64_CHUNK_BYTES] for at in range(0, len(self.data), BASE64_CHUNK_BYTES))
        return "".join(b2a_base64(part, newline=False).decode() for part in parts)

    @property
    def url(self) -> str:
        """The file itself, as a `data:` URL."""
        return f"data:{self.media_type};base64,{self.base64}"


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    text: str
    files: tuple[File, ...] = ()


Pace: TypeAlias = Callable[[], Awaitable[None]]
"""Awaited between two reads from the network: what arrives meanwhile is one read."""


SignOfLife: TypeAlias = Callable[[], None]
"""Called at reads from the network that may have no text: comments, pings, empty events."""


def no_notice() -> None:
    """For who waits for the text alone."""


async def no_pause() -> None:
    """The pace of a reader that wants every read at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One question to one model. `max_output` is in tokens, `cache_key` the conversation, `end_user` a hash."""

    provider: Provider
    model: str
    messages: tuple[Message, ...]
    max_output: int
    max_tokens_parameter: str = "max_tokens"
    reasons: bool = False  # whether to ask for its reasoning
    effort: str = ""  # how hard to think, in the provider's word; empty is the model's own choice
    cache_key: str = ""
    end_user: str = ""
    pace: Pace = no_pause
    note_life: SignOfLife = no_notice
    note_sent: Callable[[], None] = no_notice  # called once, when all of it has been sent

    @property
    def has_files(self) -> bool:
        return any(message.files for message in self.messages)


@dataclass(frozen=True, slots=True)
class Delta:
    """The text of one read from the network: one token or many."""

    text: str = ""
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens as the provider counted them: `input` includes cached ones, `output` includes reasoning."""

    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0


FinishReason: TypeAlias = Literal["stop", "length", "content_filter", "refusal", "tool_call"]
"""How an answer ended. `refusal`: the model itself declined, with or without words; `tool_call`: it wanted to use a
tool, though it was offered none."""


@dataclass(frozen=True, slots=True)
class Finish:
    """How an answer ended, as far as it is known. `usage` is what the provider reported, true or not; None if it
    reported nothing."""

    reason: FinishReason
    usage: TokenUsage | None


Event: TypeAlias = Delta | Finish
Stream: TypeAlias = Callable[[ModelRequest], AsyncGenerator[Event]]
"""An adapter: yields deltas, and a Finish at the end; raises ProviderError. Closing the iterator closes the connection.

A Finish comes also as soon as the provider says why the answer ended, while its usage is awaited: the last one holds.
"""
