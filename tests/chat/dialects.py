"""The wire formats, each with its adapter, its SDK and who speaks it."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

from chat.llm.providers import anthropic_messages, gemini, openai_chat, sdk
from chat.llm.providers.base import Message, ModelRequest, Provider, Stream
from chat.provider_registry import KNOWN_PROVIDERS
from tests.chat import transcripts
from tests.chat.reading import Read, read
from tests.chat.transcripts import Speaker
from tests.chat.wire import answering

KEY = "sk-secret-of-the-house"
ASKED = (Message("system", "Be kind."), Message("user", "hola"), Message("assistant", "¿sí?"), Message("user", "adiós"))


@dataclass(frozen=True)
class Dialect:
    name: str
    adapter: str
    stream: Stream
    speak: Speaker

    def provider(self, url: str) -> Provider:
        parameters = KNOWN_PROVIDERS["deepseek" if self.name == "deepseek" else "compatible"].parameters
        return Provider(self.name, self.name, self.adapter, url, KEY, parameters=parameters)

    def request(self, url: str, **fields: Any) -> ModelRequest:
        return ModelRequest(
            **{
                "provider": self.provider(url),
                "model": "m",
                "messages": ASKED,
                "max_output": 1_000,
                "reasons": True,
                **fields,
            }
        )

    async def by_adapter(self, url: str, **fields: Any) -> Read:
        return await read(self.stream(self.request(url, **fields)))

    async def by_sdk(self, url: str, **fields: Any) -> Read:
        return await read(sdk.stream(self.request(url, **fields)))


CHAT = Dialect("openai_chat", "openai_chat", openai_chat.stream, transcripts.openai)
MESSAGES = Dialect("anthropic_messages", "anthropic_messages", anthropic_messages.stream, transcripts.anthropic)
GEMINI = Dialect("gemini", "gemini", gemini.stream, transcripts.gemini)
DEEPSEEK = Dialect("deepseek", "openai_chat", openai_chat.stream, transcripts.deepseek)
FAMILIES = (CHAT, MESSAGES, GEMINI)
"""One of each adapter."""
DIALECTS = (*FAMILIES, DEEPSEEK)


async def both_of_each(
    dialect: Dialect, responses: Iterable[bytes], **fields: Any
) -> AsyncIterator[tuple[bytes, Read, Read]]:
    """Yield each response with what the adapter and the SDK make of it; one client of an SDK reads them all."""
    async with answering() as raw:
        for response in responses:
            raw.pieces = (response,)
            yield response, await dialect.by_adapter(raw.url, **fields), await dialect.by_sdk(raw.url, **fields)


async def both(dialect: Dialect, *pieces: bytes, pause_seconds: float = 0.0, **fields: Any) -> tuple[Read, Read]:
    """Return what the adapter and the SDK make of a response in these pieces."""
    async with answering(*pieces, pause_seconds=pause_seconds) as raw:
        return await dialect.by_adapter(raw.url, **fields), await dialect.by_sdk(raw.url, **fields)
