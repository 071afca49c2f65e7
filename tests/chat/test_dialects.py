"""The adapters beside the official SDKs: the same bytes are read as the same answer, and the same bytes are sent."""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass, field, replace
from io import BytesIO
from typing import Any

import pytest
from pytest_django import Settings

from chat.llm.providers import anthropic_messages, gemini, openai_chat, sdk, streaming
from chat.llm.providers.base import File, Message, Provider, Stream, TokenUsage
from chat.llm.providers.errors import ProviderError
from chat.llm.providers.http import close_session
from chat.provider_registry import KNOWN_PROVIDERS
from tests.chat import transcripts
from tests.chat.dialects import ASKED, CHAT, DIALECTS, FAMILIES, GEMINI, KEY, MESSAGES, Dialect, both
from tests.chat.reading import read
from tests.chat.transcripts import SCRIPTS, WRITTEN, Script, cut, whole
from tests.chat.wire import answering

PATIENCE_SECONDS = 10
"""So that a busy machine is not taken for a silent provider."""


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    found: Dialect = request.param
    return found


@pytest.fixture(autouse=True)
async def session(settings: Settings) -> AsyncIterator[None]:
    settings.STALL_SECONDS = PATIENCE_SECONDS
    yield
    await close_session()
    await sdk.close_clients()


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


@pytest.mark.parametrize("dialect", FAMILIES, ids=lambda dialect: dialect.name)
async def test_a_read_may_end_after_any_byte(dialect: Dialect):
    """Every byte a read of its own: each character, line and event is cut wherever it can be."""
    script = Script(text=("ñ😀", "日e\u0301"), reasoning=("¿",))
    [response] = whole(dialect.speak(script))
    pieces = [response[at : at + 1] for at in range(len(response))]
    ours, theirs = await both(dialect, *pieces, pause_seconds=0.0002)
    assert astuple(ours) == astuple(theirs)
    assert (ours.text, ours.reasoning, ours.error) == ("ñ😀日e\u0301", "¿", "")


async def test_a_cut_is_a_broken_connection(dialect: Dialect):
    ours, theirs = await both(dialect, *cut(dialect.speak(Script(broken="nofinish"))))
    assert ours.error == theirs.error == "connection"
    assert ours.text
    assert theirs.text.startswith(ours.text)


async def test_silence_in_the_middle_is_a_timeout(dialect: Dialect, settings: Settings):
    settings.STALL_SECONDS = 0.3
    ours, theirs = await both(dialect, *cut(dialect.speak(Script(broken="nofinish"))), b"", pause_seconds=1)
    assert ours.error == theirs.error == "timeout"
    assert ours.text == theirs.text != ""


async def test_silence_from_the_start_is_a_timeout(dialect: Dialect, settings: Settings):
    settings.STALL_SECONDS = 0.3
    ours, theirs = await both(dialect, b"", b"", pause_seconds=1)
    assert ours.error == theirs.error == "timeout"


async def test_nobody_listens(dialect: Dialect):
    async with answering() as raw:
        pass
    assert (await dialect.by_adapter(raw.url)).error == (await dialect.by_sdk(raw.url)).error == "connection"


OPENAI_ERRORS = [
    (400, "invalid_value", "Sorry.", "bad_request"),
    (400, "context_length_exceeded", "This model's maximum context length is 10 tokens.", "context_exceeded"),
    (400, "content_policy_violation", "Sorry.", "content_filter"),
    (401, "invalid_api_key", "Sorry.", "authentication"),
    (403, "unsupported_country_region_territory", "Sorry.", "permission"),
    (404, "model_not_found", "Sorry.", "not_found"),
    (429, "rate_limit_exceeded", "Sorry.", "rate_limited"),
    (429, "insufficient_quota", "Sorry.", "permission"),
    (500, None, "Sorry.", "overloaded"),
    (503, None, "Sorry.", "overloaded"),
    (504, None, "Sorry.", "timeout"),
    (529, None, "Sorry.", "overloaded"),
]
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
    (529, "UNAVAILABLE", "Sorry.", "overloaded"),
]


@pytest.mark.parametrize(
    ("dialect", "response", "code"),
    [
        *((CHAT, transcripts.openai_error(status, code, said), ours) for status, code, said, ours in OPENAI_ERRORS),
        *(
            (MESSAGES, transcripts.anthropic_error(status, kind, said), code)
            for status, kind, said, code in ANTHROPIC_ERRORS
        ),
        *((GEMINI, transcripts.gemini_error(status, name, said), code) for status, name, said, code in GEMINI_ERRORS),
    ],
    ids=[f"openai-{status}-{code}" for status, _, _, code in OPENAI_ERRORS]
    + [f"anthropic-{status}-{code}" for status, _, _, code in ANTHROPIC_ERRORS]
    + [f"gemini-{status}-{code}" for status, _, _, code in GEMINI_ERRORS],
)
async def test_a_refusal_is_the_error_the_sdk_raises(dialect: Dialect, response: bytes, code: str):
    ours, theirs = await both(dialect, response)
    assert ours.error == theirs.error == code
    assert (ours.text, ours.finish) == ("", None)


IN_STREAM = [
    (CHAT, {"error": {"code": "rate_limit_exceeded", "type": "requests", "message": "m"}}, "rate_limited"),
    (CHAT, {"error": {"code": None, "type": "timeout", "message": "m"}}, "timeout"),
    (
        CHAT,
        {"error": {"code": "context_length_exceeded", "type": "invalid_request_error", "message": "m"}},
        "context_exceeded",
    ),
    (CHAT, {"error": {"code": "content_filter", "type": "invalid_request_error", "message": "m"}}, "content_filter"),
    (CHAT, {"error": {"code": "insufficient_quota", "type": "insufficient_quota", "message": "m"}}, "permission"),
    (MESSAGES, {"type": "rate_limit_error", "message": "m"}, "rate_limited"),
    (MESSAGES, {"type": "timeout_error", "message": "m"}, "timeout"),
    (MESSAGES, {"type": "api_error", "message": "m"}, "overloaded"),
    (
        MESSAGES,
        {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 8 maximum"},
        "context_exceeded",
    ),
    (GEMINI, {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "m"}, "rate_limited"),
    (GEMINI, {"code": 500, "status": "INTERNAL", "message": "m"}, "overloaded"),
    (GEMINI, {"code": 504, "status": "DEADLINE_EXCEEDED", "message": "m"}, "timeout"),
]


@pytest.mark.parametrize(("dialect", "stated", "code"), IN_STREAM, ids=[f"{d.name}-{c}" for d, _, c in IN_STREAM])
async def test_an_error_event_inside_a_stream_is_the_error_the_sdk_raises(
    dialect: Dialect, stated: dict[str, Any], code: str
):
    events = dialect.speak(Script(broken="nofinish"))
    match dialect.name:
        case "openai_chat":
            events.append(b"data: " + json.dumps(stated).encode() + b"\n\n")
        case "anthropic_messages":
            error = json.dumps({"type": "error", "error": stated}).encode()
            events.append(b"event: error\ndata: " + error + b"\n\n")
        case "gemini":
            events.append(b"data: " + json.dumps({"error": stated}).encode() + b"\r\n\r\n")
    ours, theirs = await both(dialect, *whole(events))
    assert ours.error == theirs.error == code
    assert ours.text == theirs.text == "".join(Script().text)


# --- What the oracle does not tell -----------------------------------------------------------------------------------


@pytest.fixture(params=[None, sdk.stream], ids=["fast", "sdk"])
def by(request: pytest.FixtureRequest) -> Stream | None:
    found: Stream | None = request.param
    return found


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
    if served_by := fields.pop("provider", None):
        fields["provider"] = replace(served_by, base_url=url)
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


async def test_what_openai_is_sent():
    head, body = await body_of(CHAT, end_user="somebody", cache_key="conversation")
    assert head.startswith(b"POST /base/chat/completions HTTP/1.1\r\n")
    assert f"Authorization: Bearer {KEY}".encode() in head
    assert body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "hola"},
            {"role": "assistant", "content": "¿sí?"},
            {"role": "user", "content": "adiós"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 1_000,
    }


PNG = File("image", "image/png", "sea.png", bytes(range(256)))
PDF = File("pdf", "application/pdf", "año.pdf", b"%PDF-1.4 " + bytes(range(255, -1, -1)))
PHOTO = File("image", "image/jpeg", "p.jpg", bytes(range(256)) * 4_096 * 12)  # 12 MB, 16 as text
ADAPTER_BODIES = {
    "openai_chat": openai_chat.body_of,
    "anthropic_messages": anthropic_messages.body_of,
    "gemini": gemini.body_of,
}
PNG_TEXT, PDF_TEXT = (base64.b64encode(file.data).decode() for file in (PNG, PDF))
WITH_FILES = (*ASKED[:3], Message("user", "What is this?", (PNG, PDF)))

SENT_FILES = {
    "openai_chat": {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG_TEXT}"}},
            {"type": "file", "file": {"filename": "año.pdf", "file_data": f"data:application/pdf;base64,{PDF_TEXT}"}},
            {"type": "text", "text": "What is this?"},
        ],
    },
    "anthropic_messages": {
        "role": "user",
        "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG_TEXT}},
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": PDF_TEXT},
                "title": "año.pdf",
            },
            {"type": "text", "text": "What is this?"},
        ],
    },
    "gemini": {
        "role": "user",
        "parts": [
            {"inlineData": {"mimeType": "image/png", "data": PNG_TEXT}},
            {"inlineData": {"mimeType": "application/pdf", "data": PDF_TEXT}},
            {"text": "What is this?"},
        ],
    },
}


async def test_files_go_before_their_question_and_change_nothing_else(dialect: Dialect):
    """What came before is byte for byte what it was: the provider's cache of it still holds."""
    _, without = await body_of(dialect)
    _, body = await body_of(dialect, messages=WITH_FILES)
    name = "contents" if dialect is GEMINI else "messages"
    assert body[name][-1] == SENT_FILES[dialect.adapter]
    assert body[name][:-1] == without[name][:-1]
    assert {**body, name: None} == {**without, name: None}


def test_a_large_file_is_encoded_in_pieces_that_fit_together():
    data = bytes(range(256)) * 4_097
    assert File("image", "image/png", "x.png", data).base64 == base64.b64encode(data).decode()


@pytest.mark.parametrize("dialect", FAMILIES, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("transport", ["fast", "sdk"])
async def test_a_body_of_many_megabytes_arrives_whole(dialect: Dialect, transport: str):
    stream = dialect.stream if transport == "fast" else sdk.stream
    _, body = await body_of(dialect, stream, messages=(Message("user", "What is it?", (PHOTO,)),))
    assert base64.b64encode(PHOTO.data).decode() in json.dumps(body).replace("_", "/").replace("-", "+")


@pytest.mark.parametrize("dialect", FAMILIES, ids=lambda dialect: dialect.name)
async def test_others_are_served_while_files_are_encoded(dialect: Dialect):
    rounds = 0

    async def serve_others() -> None:
        nonlocal rounds
        while True:
            await asyncio.sleep(0)
            rounds += 1

    others = asyncio.create_task(serve_others())
    request = dialect.request("", messages=(Message("user", "What is it?", (PHOTO,)),))
    body = await streaming._encode(request, ADAPTER_BODIES[dialect.adapter])
    others.cancel()
    assert isinstance(body, BytesIO)  # written piece by piece
    assert rounds > 5


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"reasons": False},
        {"effort": "high"},
        {"effort": "low", "reasons": False},
        {"effort": "none"},
        {"messages": WITH_FILES},
    ],
    ids=["plain", "silent", "high", "low", "none", "files"],
)
async def test_both_transports_send_the_same(dialect: Dialect, fields: dict[str, Any]):
    if dialect is GEMINI and fields.get("effort") == "none":
        pytest.skip("Not a level of Google's.")
    ours_head, ours = await body_of(dialect, end_user="somebody", **fields)
    sdk_head, theirs = await body_of(dialect, sdk.stream, end_user="somebody", **fields)
    assert ours == as_spelt_by_us(theirs)
    assert ours_head.split(b"\r\n")[0].replace(b"%2F", b"/") == sdk_head.split(b"\r\n")[0].replace(b"%2F", b"/")


def as_spelt_by_us(body: Any) -> Any:
    """Google reads two spellings of a name, and of base64; its SDK sends the other ones in places."""
    names = {
        "include_thoughts": "includeThoughts",
        "thinking_level": "thinkingLevel",
        "mime_type": "mimeType",
        "parameters_json_schema": "parametersJsonSchema",
    }
    if isinstance(body, dict):
        if "mime_type" in body:
            body = {**body, "data": body["data"].replace("-", "+").replace("_", "/")}
        return {names.get(name, name): as_spelt_by_us(value) for name, value in body.items()}
    return [as_spelt_by_us(value) for value in body] if isinstance(body, list) else body


async def test_deepseek_is_told_whether_to_think(by: Stream | None):
    parameters = KNOWN_PROVIDERS["deepseek"].parameters
    deepseek = Provider("deepseek", "DeepSeek", "openai_chat", "", KEY, parameters=parameters)
    for effort, kind in (("none", "disabled"), ("high", "enabled")):
        _, body = await body_of(CHAT, by, provider=deepseek, effort=effort)
        assert body["thinking"] == {"type": kind}
        assert "reasoning_effort" not in body
    _, body = await body_of(CHAT, by, provider=deepseek)
    assert "thinking" not in body


async def test_openai_alone_gets_a_cache_key_and_a_pseudonym(by: Stream | None):
    asked = {"cache_key": "conversation", "end_user": "somebody", "max_tokens_parameter": "max_completion_tokens"}
    for slug, is_openai in (("openai", True), ("deepseek", False), ("compatible", False), ("demo", False)):
        parameters = KNOWN_PROVIDERS[slug].parameters
        served_by = Provider(slug, slug, "openai_chat", "", KEY, parameters=parameters)
        _, body = await body_of(CHAT, by, provider=served_by, **asked)
        assert (body.get("prompt_cache_key") == "conversation") is is_openai
        assert (body.get("safety_identifier") == "somebody") is is_openai
        assert body["max_completion_tokens"] == 1_000
        assert not {"max_tokens", "temperature", "top_p"} & body.keys()


async def test_each_provider_is_told_how_hard_to_think_in_its_own_words():
    _, for_openai = await body_of(CHAT, effort="medium")
    _, for_anthropic = await body_of(MESSAGES, effort="medium")
    _, for_gemini = await body_of(GEMINI, effort="medium")
    assert for_openai["reasoning_effort"] == "medium"
    assert for_anthropic["output_config"] == {"effort": "medium"}
    assert for_anthropic["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert for_gemini["generationConfig"]["thinkingConfig"] == {"includeThoughts": True, "thinkingLevel": "MEDIUM"}


@pytest.mark.parametrize("effort", ["none", "off"])
async def test_claude_can_be_told_not_to_think(effort: str):
    _, body = await body_of(MESSAGES, effort=effort)
    assert body["thinking"] == {"type": "disabled"}
    assert "output_config" not in body


async def test_nothing_is_said_of_effort_unless_it_is_asked(dialect: Dialect):
    _, body = await body_of(dialect)
    assert not {"reasoning_effort", "output_config", "thinking_level"} & body.keys()
    assert "thinkingLevel" not in json.dumps(body)


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


async def test_google_says_in_the_body_when_to_come_back(by: Stream | None):
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "3.5s"}
    async with answering(transcripts.gemini_error(429, "RESOURCE_EXHAUSTED", details=(info,))) as raw:
        with pytest.raises(ProviderError) as caught:
            await anext((by or GEMINI.stream)(GEMINI.request(raw.url)))
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


@dataclass
class Listener:
    """A provider that says something and then nothing, and notes when it was asked and when its client left."""

    url: str = ""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def listening(said: bytes) -> AsyncIterator[Listener]:
    listener = Listener()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        listener.asked.set()
        writer.write(said)
        while await reader.read(1_000):
            pass
        listener.gone.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    listener.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    yield listener
    server.close()


async def test_closing_the_iterator_closes_the_connection(dialect: Dialect, by: Stream | None):
    async with listening(b"".join(cut(dialect.speak(Script())))) as listener:
        stream = (by or dialect.stream)(dialect.request(listener.url))
        assert (await anext(stream)).text
        async with asyncio.timeout(1):
            await stream.aclose()
            await listener.gone.wait()


@pytest.mark.parametrize("begun", [False, True], ids=["silent", "begun"])
async def test_a_cancelled_reader_closes_the_connection(dialect: Dialect, by: Stream | None, begun: bool):
    """Whether it waits for the head of the answer or for its next event: somebody pressed stop."""
    async with listening(b"".join(cut(dialect.speak(Script()))) if begun else b"") as listener:
        task = asyncio.create_task(read((by or dialect.stream)(dialect.request(listener.url))))
        await listener.asked.wait()
        await asyncio.sleep(0.05)
        task.cancel()
        async with asyncio.timeout(1):
            await asyncio.wait([task])
            await listener.gone.wait()
        assert task.cancelled()


async def test_what_comes_after_an_answer_is_not_the_answer_to_the_next_question(dialect: Dialect, by: Stream | None):
    """The connection is kept, and the next question may be another person's."""

    def answer(text: str) -> bytes:
        body = b"".join(dialect.speak(Script(text=(text,))))
        return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while b"stream" in await reader.read(65_536):
            writer.write(answer("yours"))
            await asyncio.sleep(0.05)
            writer.write(answer("another's"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    for _ in range(3):
        assert (await read((by or dialect.stream)(dialect.request(url)))).text == "yours"
        await asyncio.sleep(0.1)  # in which it comes, while nobody asks
    server.close()
