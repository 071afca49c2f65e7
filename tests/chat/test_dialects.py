"""The adapters of Anthropic and Gemini beside their official SDKs: the same bytes are read as the same answer."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import astuple, dataclass
from typing import Any

import pytest
from pytest_django import Settings

from chat.llm.providers import anthropic_messages, gemini, sdk
from chat.llm.providers.base import Message, ModelRequest, Provider, Stream, TokenUsage
from chat.llm.providers.errors import ProviderError
from chat.llm.providers.http import close_session
from tests.chat import transcripts
from tests.chat.reading import Read, read
from tests.chat.transcripts import SCRIPTS, WRITTEN, Script, Speaker, cut, whole
from tests.chat.wire import answering

STALL_SECONDS = 0.3
KEY = "sk-secret-of-the-house"
ASKED = (Message("system", "Be kind."), Message("user", "hola"), Message("assistant", "¿sí?"), Message("user", "adiós"))


@dataclass(frozen=True)
class Dialect:
    name: str
    stream: Stream
    speak: Speaker

    def request(self, url: str, **fields: Any) -> ModelRequest:
        served_by = Provider(key=self.name, name=self.name, adapter=self.name, base_url=url, api_key=KEY)
        return ModelRequest(
            **{"provider": served_by, "model": "m", "messages": ASKED, "max_output": 1_000, "reasons": True, **fields}
        )

    async def by_adapter(self, url: str) -> Read:
        return await read(self.stream(self.request(url)))

    async def by_sdk(self, url: str) -> Read:
        return await read(sdk.stream(self.request(url)))


DIALECTS = [
    Dialect("anthropic_messages", anthropic_messages.stream, transcripts.anthropic),
    Dialect("gemini", gemini.stream, transcripts.gemini),
]
MESSAGES, GEMINI = DIALECTS


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    found: Dialect = request.param
    return found


@pytest.fixture(autouse=True)
async def session(settings: Settings) -> AsyncIterator[None]:
    settings.STALL_SECONDS = STALL_SECONDS
    yield
    await close_session()
    await sdk.close_clients()


async def both(dialect: Dialect, *pieces: bytes, pause_seconds: float = 0.0) -> tuple[Read, Read]:
    async with answering(*pieces, pause_seconds=pause_seconds) as raw:
        return await dialect.by_adapter(raw.url), await dialect.by_sdk(raw.url)


# --- Beside the oracle -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
async def test_an_answer_reads_as_the_sdk_reads_it(dialect: Dialect, script: Script):
    ours, theirs = await both(dialect, *whole(dialect.speak(script)))
    assert astuple(ours) == astuple(theirs)
    assert (ours.text, ours.reasoning) == ("".join(script.text), "".join(script.reasoning))
    assert bool(ours.error) == bool(script.broken)
    if not script.broken:
        assert ours.usage == script.usage


@pytest.mark.parametrize("every", [1, 7, 64])
async def test_an_answer_cut_anywhere_is_read_whole(dialect: Dialect, every: int):
    """Characters of several bytes, events and lines, all across the borders of reads."""
    script = SCRIPTS["reasoning"]
    [response] = whole(dialect.speak(script), every=every)
    pieces = [response[at : at + 200] for at in range(0, len(response), 200)]
    ours, theirs = await both(dialect, *pieces, pause_seconds=0.002)
    assert astuple(ours) == astuple(theirs)
    assert ours.text == "".join(script.text)


async def test_a_cut_is_a_broken_connection(dialect: Dialect):
    ours, theirs = await both(dialect, *cut(dialect.speak(Script())))
    assert ours.error == theirs.error == "connection"
    assert ours.text
    assert theirs.text.startswith(ours.text)


async def test_silence_in_the_middle_is_a_timeout(dialect: Dialect):
    ours, theirs = await both(dialect, *cut(dialect.speak(Script())), b"", pause_seconds=1)
    assert ours.error == theirs.error == "timeout"
    assert ours.text == theirs.text != ""


async def test_silence_from_the_start_is_a_timeout(dialect: Dialect):
    ours, theirs = await both(dialect, b"", b"", pause_seconds=1)
    assert ours.error == theirs.error == "timeout"


async def test_nobody_listens(dialect: Dialect):
    async with answering() as raw:
        pass
    assert (await dialect.by_adapter(raw.url)).error == (await dialect.by_sdk(raw.url)).error == "connection"


ANTHROPIC_ERRORS = [
    (400, "invalid_request_error", "max_tokens: required", "bad_request"),
    (400, "invalid_request_error", "prompt is too long: 1100000 tokens > 1000000 maximum", "context_exceeded"),
    (400, "invalid_request_error", "Your credit balance is too low to access the API.", "permission"),
    (401, "authentication_error", "invalid bearer token", "authentication"),
    (402, "billing_error", "Sorry.", "permission"),
    (403, "permission_error", "Sorry.", "permission"),
    (404, "not_found_error", "model: m", "not_found"),
    (413, "request_too_large", "Sorry.", "context_exceeded"),
    (429, "rate_limit_error", "Sorry.", "rate_limited"),
    (500, "api_error", "Sorry.", "overloaded"),
    (503, "api_error", "Sorry.", "overloaded"),
    (504, "timeout_error", "Sorry.", "timeout"),
    (529, "overloaded_error", "Overloaded", "overloaded"),
]
GEMINI_ERRORS = [
    (400, "INVALID_ARGUMENT", "Invalid value at 'contents'", "bad_request"),
    (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", "authentication"),
    (
        400,
        "INVALID_ARGUMENT",
        "The input token count (2000000) exceeds the maximum number of tokens allowed (1048576).",
        "context_exceeded",
    ),
    (401, "UNAUTHENTICATED", "Sorry.", "authentication"),
    (403, "PERMISSION_DENIED", "Sorry.", "permission"),
    (404, "NOT_FOUND", "models/m is not found", "not_found"),
    (429, "RESOURCE_EXHAUSTED", "Sorry.", "rate_limited"),
    (500, "INTERNAL", "Sorry.", "overloaded"),
    (503, "UNAVAILABLE", "The model is overloaded.", "overloaded"),
    (504, "DEADLINE_EXCEEDED", "Sorry.", "timeout"),
]


@pytest.mark.parametrize(
    ("dialect", "response", "code"),
    [
        *((MESSAGES, transcripts.anthropic_error(status, kind, said), code) for status, kind, said, code in ANTHROPIC_ERRORS),
        *((GEMINI, transcripts.gemini_error(status, name, said), code) for status, name, said, code in GEMINI_ERRORS),
    ],
    ids=[f"anthropic-{status}-{code}" for status, _, _, code in ANTHROPIC_ERRORS]
    + [f"gemini-{status}-{code}" for status, _, _, code in GEMINI_ERRORS],
)  # fmt: skip
async def test_a_refusal_is_the_error_the_sdk_raises(dialect: Dialect, response: bytes, code: str):
    ours, theirs = await both(dialect, response)
    assert ours.error == theirs.error == code
    assert (ours.text, ours.finish) == ("", None)


# --- What the oracle does not tell -----------------------------------------------------------------------------------


async def body_of(dialect: Dialect, by: Stream | None = None, **fields: Any) -> tuple[bytes, dict[str, Any]]:
    """Return the head and the body of what the adapter sends, or another transport."""
    sent = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line)
        sent.extend(head + await reader.readexactly(length))
        writer.write(b"".join(whole(dialect.speak(Script()))))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/base"
    async for _ in (by or dialect.stream)(dialect.request(url, **fields)):
        pass
    server.close()
    head, _, body = bytes(sent).partition(b"\r\n\r\n")
    return head, json.loads(body)


async def test_what_anthropic_is_sent():
    head, body = await body_of(MESSAGES, end_user="somebody")
    assert head.startswith(b"POST /base/v1/messages HTTP/1.1\r\n")
    assert f"Authorization: Bearer {KEY}".encode() in head
    assert b"anthropic-version: 2026-10-21" in head
    assert body == {
        "model": "m",
        "max_tokens": 1_000,
        "system": "Be kind.",
        "messages": [
            {"role": "user", "content": "hola"},
            {"role": "assistant", "content": "¿sí?"},
            {"role": "user", "content": "adiós"},
        ],
        "stream": True,
        "cache_control": {"type": "ephemeral"},
        "thinking": {"type": "adaptive", "display": "summarized"},
        "metadata": {"user_id": "somebody"},
    }


async def test_what_gemini_is_sent():
    head, body = await body_of(GEMINI, model="tuned/x")
    assert head.startswith(b"POST /base/models/tuned%2Fx:streamGenerateContent?alt=sse HTTP/1.1\r\n")
    assert f"x-goog-api-key: {KEY}".encode() in head
    assert body == {
        "systemInstruction": {"parts": [{"text": "Be kind."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "hola"}]},
            {"role": "model", "parts": [{"text": "¿sí?"}]},
            {"role": "user", "parts": [{"text": "adiós"}]},
        ],
        "generationConfig": {"maxOutputTokens": 1_000, "thinkingConfig": {"includeThoughts": True}},
    }


@pytest.mark.parametrize("reasons", [True, False])
async def test_both_transports_send_the_same(dialect: Dialect, reasons: bool):
    ours_head, ours = await body_of(dialect, reasons=reasons, end_user="somebody")
    sdk_head, theirs = await body_of(dialect, sdk.stream, reasons=reasons, end_user="somebody")
    # Google reads both spellings of a name; its SDK uses the other one here.
    assert ours == json.loads(json.dumps(theirs).replace("include_thoughts", "includeThoughts"))
    assert ours_head.split(b"\r\n")[0].replace(b"%2F", b"/") == sdk_head.split(b"\r\n")[0].replace(b"%2F", b"/")


async def test_a_model_that_does_not_think_is_not_asked_to():
    _, for_anthropic = await body_of(MESSAGES, reasons=False)
    _, for_gemini = await body_of(GEMINI, reasons=False)
    assert "thinking" not in for_anthropic
    assert for_gemini["generationConfig"] == {"maxOutputTokens": 1_000}


async def test_tokens_written_to_the_cache_are_part_of_the_input():
    async with answering(*whole(transcripts.anthropic(WRITTEN))) as raw:
        read = await MESSAGES.by_adapter(raw.url)
    assert read.usage == astuple(TokenUsage(input=5_000, output=7, cache_read=2_048, cache_write=2_900))


async def test_a_question_that_gemini_blocks_is_filtered():
    ours, theirs = await both(GEMINI, *whole(transcripts.gemini(Script(end="blocked"))))
    assert astuple(ours) == astuple(theirs)
    assert (ours.text, ours.finish, ours.error) == ("", "content_filter", "")


async def test_google_says_in_the_body_when_to_come_back():
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "3.5s"}
    async with answering(transcripts.gemini_error(429, "RESOURCE_EXHAUSTED", details=(info,))) as raw:
        with pytest.raises(ProviderError) as caught:
            await anext(GEMINI.stream(GEMINI.request(raw.url)))
    assert (caught.value.code, caught.value.retry_after) == ("rate_limited", 3.5)


async def test_a_usage_that_is_missing_is_none_and_not_zero():
    async with answering(*whole(transcripts.gemini(Script(usage=None)))) as raw:
        assert (await GEMINI.by_adapter(raw.url)).usage is None


@pytest.mark.parametrize("transport", ["fast", "sdk"])
async def test_neither_key_nor_provider_text_leaks(dialect: Dialect, transport: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    said = f"secret words about {KEY}"
    for response in (
        transcripts.anthropic_error(401, "authentication_error", said),
        transcripts.gemini_error(403, "PERMISSION_DENIED", said),
    ):
        async with answering(response) as raw:
            request = dialect.request(raw.url)
            with pytest.raises(ProviderError) as caught:
                await anext((dialect.stream if transport == "fast" else sdk.stream)(request))
        told = f"{caught.value} {caught.value!r} {caplog.text} {request!r}"
        assert KEY not in told
        assert "secret words" not in told


@pytest.mark.parametrize("transport", ["fast", "sdk"])
async def test_closing_the_iterator_closes_the_connection(dialect: Dialect, transport: str):
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"".join(cut(dialect.speak(Script()))))
        while await reader.read(1_000):
            pass
        gone.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    stream = (dialect.stream if transport == "fast" else sdk.stream)(dialect.request(url))
    assert (await anext(stream)).text
    begun = time.monotonic()
    await stream.aclose()  # type: ignore[attr-defined]
    async with asyncio.timeout(2):
        await gone.wait()
    assert time.monotonic() - begun < 1
    server.close()
