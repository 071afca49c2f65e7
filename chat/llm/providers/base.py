"""What all wire formats share: a request in, deltas and one finish out. Pure values; nothing here does I/O."""

from binascii import b2a_base64
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import msgspec

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
    """A file of a question, as the model takes it. An image's size is in pixels, 0 where it is not known."""

    kind: Literal["image", "pdf"]
    media_type: str
    name: str
    data: bytes = field(repr=False)
    width: int = 0
    height: int = 0

    @property
    def base64(self) -> str:
        parts = (self.data[at : at + BASE64_CHUNK_BYTES] for at in range(0, len(self.data), BASE64_CHUNK_BYTES))
        return "".join(b2a_base64(part, newline=False).decode() for part in parts)

    @property
    def url(self) -> str:
        """The file itself, as a `data:` URL."""
        return f"data:{self.media_type};base64,{self.base64}"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that a model wants to be used. `arguments` are JSON, as the model wrote them: true or not."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """`tool_calls` are an assistant's; a message of the role `tool` is the result of the call `tool_call_id`."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str
    files: tuple[File, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """All that is sent of it, but for files: its text, each call of a tool, or the id of the one it answers."""
        calls = (f"{call.id} {call.name} {call.arguments}" for call in self.tool_calls)
        return (self.text, *calls, self.tool_call_id) if self.tool_call_id else (self.text, *calls)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON schema; None takes none."""

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None
    is_strict: bool | None = None


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """What an answer in JSON has to look like; without a schema any object will do."""

    name: str = ""
    description: str = ""
    schema: dict[str, Any] | None = None
    is_strict: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """What a program says of the answer it wants; None and empty: nothing. `tool_choice` is `auto`, `none`, `required`,
    or `tool:` and the name of the one that has to be called."""

    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    json: JsonSchema | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str = ""
    parallel_tool_calls: bool | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """What is sent of them besides the messages, as JSON: each tool, and the schema."""
        sent = (*self.tools, self.json) if self.json else self.tools
        return tuple(msgspec.json.encode(one).decode() for one in sent)


NO_OPTIONS = AnswerOptions()


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
    options: AnswerOptions = NO_OPTIONS
    cache_key: str = ""
    end_user: str = ""
    pace: Pace = no_pause
    note_life: SignOfLife = no_notice
    note_sent: Callable[[], None] = no_notice  # called once, when all of it has been sent

    @property
    def has_files(self) -> bool:
        return any(message.files for message in self.messages)


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A part of the answer's `index`th call of a tool, counted from 0: put together, field by field, they are the call.

    None is empty. The first has the id, one the name, nearly always the first, and all may have some of the arguments.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Delta(msgspec.Struct, frozen=True, gc=False):
    """The text of one read from the network: one token or many. Calls of tools come only where tools were offered.

    It is made for each read, and a struct is made in a fifth of a dataclass's time.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallPart, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens as the provider counted them: `input` includes cached ones, `output` includes reasoning."""

    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0


FinishReason: TypeAlias = Literal["stop", "length", "content_filter", "refusal", "tool_call"]
"""How an answer ended. `refusal`: the model itself declined, with or without words; `tool_call`: it wants to use a
tool, offered or not."""


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
