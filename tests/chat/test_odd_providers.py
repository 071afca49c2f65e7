"""What providers really send, by each adapter and its SDK: it is an answer, or an error that keeps the text."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from time import monotonic, process_time
from typing import Any

import pytest
from pytest_django import Settings

from chat.llm.providers import sdk, streaming
from chat.llm.providers.base import Finish
from chat.llm.providers.errors import BadResponse, ProviderError
from chat.llm.providers.http import close_session
from chat.llm.providers.sdk_http import MAX_LIST_BYTES, MAX_LIST_OBJECTS
from chat.llm.providers.sse import MAX_EVENT_BYTES
from tests.chat.dialects import CHAT, DEEPSEEK, DIALECTS, FAMILIES, GEMINI, MESSAGES, Dialect, both, both_of_each
from tests.chat.transcripts import HEAD, LAST, Script, chunked, gemini_error
from tests.chat.wire import STREAM, answering, refusal

PLAIN = Script(reasoning=("Hm, ", "¿sí? "), usage=(12, 30, 4, 0, 21))
TEXT, REASONING = "".join(PLAIN.text), "".join(PLAIN.reasoning)

Fields = dict[str, Any]


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    found: Dialect = request.param
    return found


@pytest.fixture(autouse=True)
async def session(settings: Settings) -> AsyncIterator[None]:
    settings.STALL_SECONDS = 10
    yield
    await close_session()
    await sdk.close_clients()


def edited(events: list[bytes], edit: Callable[[Fields], object]) -> list[bytes]:
    """Return the events, the JSON of each edited in place."""
    changed = []
    for event in events:
        before, _, data = event.partition(b"data: ")
        if data.startswith(b"{"):
            fields = json.loads(data)
            edit(fields)
            data = json.dumps(fields).encode() + b"\n\n"
        changed.append(before + b"data: " + data)
    return changed


def until_finish(dialect: Dialect) -> list[bytes]:
    """Return the events up to the one that says why it ended."""
    events = dialect.speak(PLAIN)
    return events[: {"gemini": None, "anthropic_messages": -1}.get(dialect.name, -2)]


# --- Characters ------------------------------------------------------------------------------------------------------


def units(text: str) -> tuple[str, ...]:
    """Cut a text as JavaScript does."""
    encoded = text.encode("utf-16-le")
    return tuple(encoded[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(encoded), 2))


HALVES: dict[str, tuple[tuple[str, ...], tuple[str, ...], str, str]] = {
    "in two events": (("a\ud83d", "\ude00b"), (), "a😀b", ""),
    "unit by unit": (units("👩\u200d👧 ¿y?"), units("😀"), "👩\u200d👧 ¿y?", "😀"),
    "alone": (("\ud83d",), (), "\ufffd", ""),
    "the second alone": (("\ude00x",), (), "\ufffdx", ""),
    "parted": (("x\ud83d", "y", "\ude00"), (), "x\ufffdy\ufffd", ""),
    "the first twice": (("\ud83d\ud83d", "\ude00"), (), "\ufffd😀", ""),
    "with a NUL between": (("\ud83d", "\0", "\ude00"), (), "😀", ""),
    "text and reasoning apart": (("\ude00", "z"), ("¿\ud83d",), "\ufffdz", "¿\ufffd"),
    "beside backslashes": (("\\\ud83d", "\ude00\\\\ud83d"), (), "\\😀\\\\ud83d", ""),
}


@pytest.mark.parametrize(("pieces", "thoughts", "text", "reasoning"), HALVES.values(), ids=HALVES)
async def test_halves_of_a_character_are_joined_across_events_and_reads(
    dialect: Dialect, pieces: tuple[str, ...], thoughts: tuple[str, ...], text: str, reasoning: str
):
    events = dialect.speak(Script(text=pieces, reasoning=thoughts, escaped=True))
    for found in await both(dialect, STREAM, *events, pause_seconds=0.002):
        assert (found.text, found.reasoning, found.finish, found.error) == (text, reasoning, "stop", "")


async def test_half_a_character_before_an_error_is_shown(dialect: Dialect):
    events = dialect.speak(Script(text=("a", "\ud83d"), broken="error", escaped=True))
    for found in await both(dialect, STREAM, *events):
        assert (found.text, found.error) == ("a\ufffd", "overloaded")


async def test_bytes_that_are_not_utf_8_are_replaced(dialect: Dialect):
    events = [event.replace(b"Hola", b"H\xff\xe2\x82la") for event in dialect.speak(PLAIN)]
    for found in await both(dialect, STREAM, *events):
        assert (found.text, found.error) == (TEXT.replace("Hola", "H\ufffd\ufffdla"), "")


# --- Streams that are spelt otherwise --------------------------------------------------------------------------------


def with_more_choices(dialect: Dialect) -> list[bytes]:
    def edit(fields: Fields) -> None:
        if choices := fields.get("choices"):
            fields["choices"] = [{**choices[0], "index": 1, "delta": {"content": "no"}}, choices[0]]
        if candidates := fields.get("candidates"):
            other = {"index": 1, "content": {"parts": [{"text": "no"}]}, "finishReason": "MAX_TOKENS"}
            fields["candidates"] = [*candidates, other]

    return edited(dialect.speak(PLAIN), edit)


def with_parts(dialect: Dialect) -> list[bytes]:
    def edit(fields: Fields) -> None:
        for choice in fields.get("choices", ()):
            if text := choice["delta"].get("content"):
                parts = [{"type": "text", "text": text[:2]}, {"type": "image"}, {"type": "text", "text": text[2:]}]
                choice["delta"]["content"] = parts

    return edited(dialect.speak(PLAIN), edit)


SPELLINGS: dict[str, Callable[[Dialect], list[bytes]]] = {
    "a byte order mark": lambda dialect: [b"\xef\xbb\xbf", *dialect.speak(PLAIN)],
    "half a byte order mark": lambda dialect: [b"\xef\xbb", b"\xbf", *dialect.speak(PLAIN)],
    "blank lines first": lambda dialect: [b"\r\n", b"\n\n", *dialect.speak(PLAIN)],
    "CR": lambda dialect: [one.replace(b"\r\n", b"\r").replace(b"\n", b"\r") for one in dialect.speak(PLAIN)],
    "CR LF, cut between": lambda dialect: [
        part
        for one in dialect.speak(PLAIN)
        for part in (one.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")[:-1], b"\n")
    ],
    "no blank after the colon": lambda dialect: [one.replace(b"data: ", b"data:") for one in dialect.speak(PLAIN)],
    "comments": lambda dialect: [part for one in dialect.speak(PLAIN) for part in (b": PROCESSING {\n\n", one)],
    "lines inside the JSON": lambda dialect: [
        event.replace(b'{"', b'{\ndata: "', 1).replace(b"}\n", b"\ndata: }\n") for event in dialect.speak(PLAIN)
    ],
    "[DONE] from everybody": lambda dialect: [*dialect.speak(PLAIN), b"data: [DONE]\n\n"],
    "more choices": with_more_choices,
    "content in parts": with_parts,
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
async def test_an_answer_spelt_otherwise_is_the_same(dialect: Dialect, spell: Callable[[Dialect], list[bytes]]):
    for found in await both(dialect, STREAM, *spell(dialect), pause_seconds=0.002):
        assert (found.text, found.reasoning, found.finish, found.error) == (TEXT, REASONING, "stop", "")
        assert found.usage == PLAIN.usage


# --- Usage -----------------------------------------------------------------------------------------------------------


def with_reports(dialect: Dialect, change: Callable[[Fields], Any]) -> list[bytes]:
    """Return the events, with another report of tokens wherever there is one."""

    def edit(fields: Fields) -> None:
        for holder, name in ((fields, "usage"), (fields, "usageMetadata"), (fields.get("message"), "usage")):
            if holder and holder.get(name):
                holder[name] = change(holder[name])

    return edited(dialect.speak(PLAIN), edit)


def with_counts(change: Callable[[int], Any]) -> Callable[[Fields], Fields]:
    return lambda report: {name: change(count) if isinstance(count, int) else count for name, count in report.items()}


NO_REPORTS: dict[str, Callable[[Fields], Any]] = {
    "empty": lambda _report: {},
    "a word": lambda _report: "twelve",
    "a list": lambda _report: [1, 2],
    "words": with_counts(lambda _count: "twelve"),
    "numbers as strings": with_counts(str),
    "fractions": with_counts(lambda count: count + 0.5),
    "lists": with_counts(lambda count: [count]),
    "truth": with_counts(lambda _count: True),
    "infinite": with_counts(lambda _count: float("inf")),
    "totals that are null": with_counts(lambda _count: None),
}
READ_BY_SDKS = ("numbers as strings", "truth")
REFUSED_BY_GOOGLE = ("a word", "a list", "words", "fractions", "lists", "infinite")
"""Its SDK checks every type, and raises before it shows the event."""


@pytest.mark.parametrize("name", NO_REPORTS)
async def test_a_report_that_cannot_be_read_is_none(dialect: Dialect, name: str):
    ours, theirs = await both(dialect, STREAM, *with_reports(dialect, NO_REPORTS[name]))
    assert (ours.text, ours.finish, ours.usage, ours.error) == (TEXT, "stop", None, "")
    assert theirs.text == TEXT
    if dialect is GEMINI and name in REFUSED_BY_GOOGLE:
        assert theirs.error == "bad_response"
    else:
        assert (theirs.finish, theirs.error) == ("stop", "")
        assert theirs.usage is None or name in READ_BY_SDKS


@pytest.mark.parametrize("nothing", [lambda _value: None, lambda _value: {}], ids=["null", "empty"])
async def test_details_that_are_null_or_missing_are_zero(dialect: Dialect, nothing: Callable[[Any], Any]):
    def without_details(report: Fields) -> Fields:
        totals = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")
        totals += ("promptTokenCount", "candidatesTokenCount")
        kept = {name: count for name, count in report.items() if name in totals}
        lost = {name: nothing(value) for name, value in report.items() if isinstance(value, dict)}
        return kept | lost | dict.fromkeys(report.keys() - kept.keys() - lost.keys())

    counted = {"gemini": (12, 9), "anthropic_messages": (8, 30)}.get(dialect.name, (12, 30))
    for found in await both(dialect, STREAM, *with_reports(dialect, without_details)):
        assert (found.usage, found.finish) == ((*counted, 0, 0, 0), "stop")


# --- The end ---------------------------------------------------------------------------------------------------------


async def test_a_connection_left_open_after_the_finish_is_not_waited_for(
    dialect: Dialect, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(streaming, "END_SECONDS", 0.3)
    begun = monotonic()
    for found in await both(dialect, STREAM + b"".join(until_finish(dialect)), pause_seconds=30):
        assert (found.text, found.finish, found.error) == (TEXT, "stop", "")
        assert found.usage == (None if dialect in (CHAT, DEEPSEEK) else PLAIN.usage)
    assert monotonic() - begun < 25


async def test_text_and_usage_after_the_finish_are_waited_for(dialect: Dialect, monkeypatch: pytest.MonkeyPatch):
    """Some say with each event why it ended. Where text came after that, a longer silence is no end either."""
    monkeypatch.setattr(streaming, "END_SECONDS", 1.5)
    script = Script(text=("uno ", "dos ", "tres "))

    def finish_early(fields: Fields) -> None:
        for choice in fields.get("choices", ()):
            choice["finish_reason"] = "stop"
        for candidate in fields.get("candidates", ()):
            candidate["finishReason"] = "STOP"

    events = edited(dialect.speak(script), finish_early)
    last_text = next(place for place, event in enumerate(events) if b"tres " in event)
    events[last_text:last_text] = [b""] * 6
    async with answering(STREAM, *events, pause_seconds=0.3) as raw:
        both_found = await asyncio.gather(dialect.by_adapter(raw.url), dialect.by_sdk(raw.url))
    for found in both_found:
        assert (found.text, found.finish, found.usage, found.error) == ("uno dos tres ", "stop", script.usage, "")


ENDINGS = {
    "a cut": b"",
    "rubbish": b"data: {\n\n",
    "half an event": b'data: {"us',
    "an error": b'event: error\ndata: {"type":"error","error":{"type":"server_error","code":429,"message":"m"}}\n\n',
    "comments": (b": " + b"x" * 9_000 + b"\n") * (MAX_EVENT_BYTES // 9_000 + 30),
}


@pytest.mark.parametrize("after", ENDINGS.values(), ids=ENDINGS)
async def test_what_breaks_after_the_finish_breaks_no_answer(dialect: Dialect, after: bytes):
    response = HEAD + chunked(b"".join(until_finish(dialect)) + after)
    for pieces in ([response], [response, LAST]):
        for found in await both(dialect, *pieces):
            assert (found.text, found.finish, found.error) == (TEXT, "stop", "")


async def test_usage_after_an_error_after_the_finish_is_read(dialect: Dialect):
    """By the adapter: an SDK ends with the error."""
    until, after = until_finish(dialect), b'data: {"type":"error","error":{"code":429,"message":"m"}}\n\n'
    events = [*until, after, *dialect.speak(PLAIN)[len(until) :]]
    async with answering(STREAM, *events) as raw:
        assert (await dialect.by_adapter(raw.url)).usage == PLAIN.usage


async def test_a_flood_after_the_finish_ends(dialect: Dialect, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streaming, "END_SECONDS", 0.3)
    last = until_finish(dialect)[-1] * 500
    begun = monotonic()
    for found in await both(dialect, STREAM + b"".join(until_finish(dialect)), *[last] * 1_000, pause_seconds=0.01):
        assert (found.text, found.finish, found.error) == (TEXT, "stop", "")
    assert monotonic() - begun < 60


async def test_a_stream_says_at_once_that_it_has_finished(dialect: Dialect):
    """Whoever stops it while its usage is awaited has the rest of it."""
    async with answering(STREAM + b"".join(until_finish(dialect)), pause_seconds=30) as raw:
        for stream in (dialect.stream, sdk.stream):
            async with asyncio.timeout(25), aclosing(stream(dialect.request(raw.url))) as events:
                async for event in events:
                    if isinstance(event, Finish):
                        break
            assert event.reason == "stop"


async def test_text_before_an_error_of_http_is_shown(dialect: Dialect):
    """Even in one packet with it, if the head came before."""
    body = b"".join(dialect.speak(Script(broken="nofinish")))
    short = HEAD.replace(b"Transfer-Encoding: chunked", b"Content-Length: %d" % (len(body) + 9))
    for pieces in ((HEAD, chunked(body) + b"zz\r\n"), (HEAD + chunked(body), b"zz\r\n"), (short, body)):
        for found in await both(dialect, *pieces, pause_seconds=0.05):
            assert (found.text, found.error) == (TEXT, "connection")


# --- Comments --------------------------------------------------------------------------------------------------------


async def test_comments_are_read_for_so_long(dialect: Dialect, settings: Settings):
    settings.LOADING_SECONDS = 0.3
    for found in await both(dialect, STREAM, *[b": PROCESSING\n\n"] * 200, pause_seconds=0.02):
        assert (found.text, found.error) == ("", "timeout")


async def test_a_flood_of_comments_costs_little_and_ends(dialect: Dialect):
    begun = process_time()
    for found in await both(dialect, STREAM + b":\n" * (MAX_EVENT_BYTES // 2 + 9)):
        assert (found.text, found.error) == ("", "bad_response")
    assert process_time() - begun < 5


# --- Size ------------------------------------------------------------------------------------------------------------


ENDLESS_LISTS = {
    "openai_chat": b'{"id":"c","choices":[{"index":1,"delta":{"tool_calls":[%s]}}]}',
    "anthropic_messages": b'{"type":"message_start","message":{"content":[%s]}}',
    "gemini": b'{"candidates":[{"index":1,"content":{"parts":[%s]}}]}',
}


@pytest.mark.parametrize("dialect", FAMILIES, ids=lambda dialect: dialect.name)
async def test_an_event_that_would_keep_its_sdk_busy_is_not_read(dialect: Dialect):
    """Text before it is kept. No other answer is read while an SDK makes its objects."""
    before = b"".join(dialect.speak(Script(broken="nofinish")))
    data = ENDLESS_LISTS[dialect.name] % b",".join([b"{}"] * 30_000)
    found = (await both(dialect, STREAM + before + b"data: " + data + b"\n\n"))[1]
    assert (found.text, found.error) == (TEXT, "bad_response")


async def test_a_text_that_comes_in_one_event_is_read(dialect: Dialect):
    text = "palabra " * 5_000
    for found in await both(dialect, STREAM, *dialect.speak(Script(text=(text,)))):
        assert (found.text, found.finish, found.error) == (text, "stop", "")


async def test_what_is_compressed_is_not_read(dialect: Dialect):
    """Nobody asked for it, and a few bytes may become gigabytes. What its status says holds."""
    body = gzip.compress(b"x" * 50_000_000)
    async with answering() as raw:
        for status, code in ((200, "bad_response"), (429, "rate_limited")):
            raw.pieces = (refusal(status, body, Content_Encoding="gzip", Retry_After="7"),)
            for found in (await dialect.by_adapter(raw.url), await dialect.by_sdk(raw.url)):
                assert (found.text, found.error) == ("", code)
                assert found.retry_after == (7 if status == 429 else None)
            with pytest.raises(ProviderError) as raised:
                await sdk.list_models(dialect.provider(raw.url))
            assert raised.value.code == code
    assert all(b"\r\naccept-encoding: identity\r\n" in head.lower() for head in raw.heads)


async def test_a_list_of_models_is_read_up_to_a_limit(dialect: Dialect):
    async with answering() as raw:
        for body in (b'{"data":[]}' + b" " * MAX_LIST_BYTES, b'{"data":[' + b"{}," * MAX_LIST_OBJECTS + b"{}]}"):
            raw.pieces = (refusal(200, body),)
            with pytest.raises(BadResponse):
                await sdk.list_models(dialect.provider(raw.url))


# --- Elsewhere -------------------------------------------------------------------------------------------------------


async def test_nobody_is_followed_elsewhere(dialect: Dialect):
    """Neither the key nor the question may reach another host."""
    async with answering(STREAM, *dialect.speak(PLAIN)) as stranger:
        for status in (301, 302, 303, 307, 308):
            async with answering(refusal(status, b"{}", Location=f"{stranger.url}/elsewhere")) as raw:
                ours, theirs = await dialect.by_adapter(raw.url), await dialect.by_sdk(raw.url)
                with pytest.raises(ProviderError) as caught:
                    await sdk.list_models(dialect.provider(raw.url))
            assert len(raw.heads) == 3
            assert (ours.text, ours.error) == (theirs.text, theirs.error) == ("", "redirected")
            assert caught.value.code == "redirected"
        assert stranger.heads == []


# --- Other people's questions ----------------------------------------------------------------------------------------


async def test_what_comes_after_an_answer_is_not_the_answer_to_the_next_question(dialect: Dialect):
    """Two responses in one packet, on a connection that may be kept."""
    first, second = (
        refusal(200, b"".join(dialect.speak(Script(text=(text,))))).replace(b"Connection: close\r\n", b"")
        for text in ("for Ana", "for Ana, again")
    )
    for ask in (dialect.by_adapter, dialect.by_sdk):
        async with answering(first + second, stays_open=True) as raw:
            assert (await ask(raw.url)).text == "for Ana"
            raw.pieces = (first.replace(b"for Ana", b"for Bo!"),)
            assert (await ask(raw.url)).text == "for Bo!"


async def test_cookies_of_a_provider_are_not_kept(dialect: Dialect):
    response = refusal(200, b"".join(dialect.speak(PLAIN)), Set_Cookie="session=1; Path=/")
    async with answering(response) as raw:
        at_a_name = raw.url.replace("127.0.0.1", "localhost")  # no cookies are kept of a number
        for ask in (dialect.by_adapter, dialect.by_sdk):
            for _ in range(2):
                assert (await ask(at_a_name)).text == TEXT
    assert len(raw.heads) == 4
    assert not any(b"\r\ncookie:" in head.lower() for head in raw.heads)


# --- Errors ----------------------------------------------------------------------------------------------------------


WAITS = [
    ("3.5", 3.5),
    ("-3", 0),
    ("inf", None),
    ("-inf", None),
    ("nan", None),
    ("1e308", 86_400),
    ("9" * 400, None),
    ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
    ("Mon, 01 Jan 99999 00:00:00 GMT", None),
    ("Mon, 99999999999999999999 Jan 2020 00:00:00 GMT", None),
    ("Mon, 01 Jan 2020 00:00:00 -0000", None),
    ("Mon, 01 Jan 2020 00:00:00 GMT", 0),
]


async def test_a_time_to_wait_is_one_that_somebody_can_wait(dialect: Dialect):
    responses = (refusal(429, b"{}", Retry_After=value) for value, _ in WAITS)
    found = [(ours, theirs) async for _, ours, theirs in both_of_each(dialect, responses)]
    for (value, seconds), pair in zip(WAITS, found, strict=True):
        assert [(one.error, one.retry_after) for one in pair] == [("rate_limited", seconds)] * 2, value


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [("3.5s", 3.5), ("-5s", 0), ("infs", None), ("nans", None), ("1e308s", 86_400), (5, None), ([1], None), ({}, None)],
)
async def test_so_is_one_that_google_says_in_the_body(delay: Any, seconds: float | None):
    details = ({"retryDelay": delay}, "x", [1], None)
    for found in await both(GEMINI, gemini_error(429, "RESOURCE_EXHAUSTED", details=details)):
        assert (found.error, found.retry_after) == ("rate_limited", seconds)


NESTED = b"[" * 1_000 + b"]" * 1_000
ODD_BODIES = [
    NESTED,
    b"[" * 900 + b"]" * 900,
    b'{"error":' + NESTED + b"}",
    b'{"error":{"message":' + NESTED + b',"code":{},"type":[]}}',
    b'{"error":{"message":5,"code":["x"],"type":{"a":1},"status":[],"details":"x"}}',
    b'{"error":{"message":null,"code":null,"type":true,"status":1.5,"details":[1,[2],"x",null]}}',
    b'{"error":"text"}',
    b'{"error":[1]}',
    b'{"error":5}',
    b'{"error":null}',
    b'{"message":["x"],"status":{},"code":"x"}',
    b'["x"]',
    b"[]",
    b"[[]]",
    b'"text"',
    b"5",
    b"null",
    b"",
    b"\xff\xfe\x00",
    b'{"error":{"message":"\\ud83d"}}',
    b'{"error":{"message":"\xff"}}',
    b"{",
]


async def test_an_error_body_of_any_shape_is_the_error_of_its_status(dialect: Dialect):
    for status, code in ((503, "overloaded"), (429, "rate_limited")):
        async for response, ours, theirs in both_of_each(dialect, (refusal(status, body) for body in ODD_BODIES)):
            assert (ours.error, theirs.error) == (code, code), response[:200]


async def test_an_error_body_without_end_does_not_fill_the_memory(dialect: Dialect):
    endless = b"HTTP/1.1 500 Broken\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 300_000
    begun = monotonic()
    for found in await both(dialect, endless, pause_seconds=30):
        assert found.error == "overloaded"
    assert monotonic() - begun < 25


async def test_so_it_is_where_models_are_listed(dialect: Dialect):
    async with answering() as raw:
        for body in ODD_BODIES:
            raw.pieces = (refusal(429, body),)
            with pytest.raises(ProviderError) as caught:
                await sdk.list_models(dialect.provider(raw.url))
            assert caught.value.code == "rate_limited", body[:60]


def stated(dialect: Dialect, error: bytes) -> bytes:
    return (b'{"type":"error","error":%s}' if dialect is MESSAGES else b'{"error":%s}') % error


@pytest.mark.parametrize(
    "error",
    [b'"text"', b"[1]", b"5", b"true", b'{"code":{},"type":[],"message":5,"status":1.5}', NESTED],
    ids=["text", "list", "number", "true", "fields", "nested"],
)
async def test_an_error_inside_a_stream_may_have_any_shape(dialect: Dialect, error: bytes):
    events = dialect.speak(Script(broken="nofinish"))
    event = b"event: error\ndata: " + stated(dialect, error) + b"\n\n"
    for found in await both(dialect, STREAM, *events, event):
        assert found.text == TEXT
        assert found.error in ("overloaded", "bad_response")


RATE_LIMITS = {
    "openai_chat": b'{"code":"rate_limit_exceeded","type":"requests","message":"m"}',
    "anthropic_messages": b'{"type":"rate_limit_error","message":"m"}',
    "gemini": b'{\r\n  "code": 429,\r\n  "status": "RESOURCE_EXHAUSTED", "message": "m"\r\n}',
    "deepseek": b'\n\n{"code":429,"message":"Provider returned error"}',
}


async def test_an_error_in_json_with_status_200_is_that_error(dialect: Dialect):
    body = stated(dialect, RATE_LIMITS[dialect.name])
    for response in (refusal(200, body), STREAM + b"\xef\xbb\xbf\n" + body):
        for found in await both(dialect, response):
            assert (found.text, found.error) == ("", "rate_limited")


WHOLE_ANSWERS = {
    "openai_chat": b'{"choices":[{"message":{"content":"hola"},"finish_reason":"stop"}],"usage":{}}',
    "anthropic_messages": b'{"type":"message","content":[{"type":"text","text":"hola"}],"stop_reason":"end_turn"}',
    "gemini": b'{"candidates":[{"content":{"parts":[{"text":"hola"}]},"finishReason":"STOP"}]}',
    "deepseek": b'{"choices":[{"message":{"content":"hola"},"finish_reason":"stop"}],"usage":{}}',
}


async def test_any_other_json_with_status_200_is_a_bad_response(dialect: Dialect):
    """Nobody asked for a whole answer, and an empty one must not be shown in its place."""
    bodies = (WHOLE_ANSWERS[dialect.name], b"{}", b'["x"]', b"{", b'{"error":null}')
    async for response, *pair in both_of_each(dialect, (refusal(200, body) for body in bodies)):
        for found in pair:
            assert (found.text, found.finish, found.error) == ("", None, "bad_response"), response


VALUES = ("x", 5, 1.5, True, None, [], [1], {}, {"a": [{}]})


BESIDE_TEXT: dict[str, Callable[[Fields], object]] = {
    "no tool call": lambda delta: delta.update(tool_calls=[]),
    "an empty tool call": lambda delta: delta.update(tool_calls=[{}]),
    "null for a tool call": lambda delta: delta.update(tool_calls=[None]),
    "reasoning as an object": lambda delta: delta.update(reasoning={"a": 1}),
    "reasoning as numbers": lambda delta: delta.update(reasoning_content=[1, {"text": 2}]),
}


@pytest.mark.parametrize("add", BESIDE_TEXT.values(), ids=BESIDE_TEXT)
async def test_what_says_nothing_beside_a_text_changes_nothing(add: Callable[[Fields], object]):
    def edit(fields: Fields) -> None:
        for choice in fields["choices"]:
            if choice["delta"].get("content"):
                add(choice["delta"])

    for found in await both(CHAT, STREAM, *edited(CHAT.speak(PLAIN), edit)):
        assert (found.text, found.reasoning, found.finish, found.error) == (TEXT, REASONING, "stop", "")


@pytest.mark.parametrize("error", [{}, {"code": 0, "message": ""}, "", False, [], 0], ids=repr)
async def test_an_error_that_says_nothing_is_none(dialect: Dialect, error: Any):
    events = edited(dialect.speak(PLAIN), lambda fields: fields.update(error=error))
    for found in await both(dialect, STREAM, *events):
        assert (found.text, found.finish, found.usage, found.error) == (TEXT, "stop", PLAIN.usage, "")


@pytest.mark.parametrize("reason", [7, True, [7], {"a": 1}], ids=repr)
async def test_a_finish_reason_that_is_no_word_is_an_end(reason: Any):
    def edit(fields: Fields) -> None:
        for choice in fields["choices"]:
            choice["finish_reason"] = choice["finish_reason"] and reason

    for found in await both(CHAT, STREAM, *edited(CHAT.speak(PLAIN), edit)):
        assert (found.text, found.finish, found.usage, found.error) == (TEXT, "stop", PLAIN.usage, "")


@pytest.mark.parametrize("dialect", FAMILIES, ids=lambda dialect: dialect.name)
async def test_any_type_at_any_place_is_an_answer_or_an_error(dialect: Dialect):
    """In the last event with text; the SDK, which costs more, reads every seventh."""
    events = dialect.speak(PLAIN)
    *_, number = (at for at, event in enumerate(events) if "日本".encode() in event)
    before, after = STREAM + b"".join(events[:number]), b"".join(events[number + 1 :])
    async with answering() as raw:
        for nth, changed in enumerate(changes_of(json.loads(events[number].partition(b"data: ")[2]))):
            odd = b"event: content_block_delta\ndata: " + json.dumps(changed).encode() + b"\n\n"
            raw.pieces = (before + odd + after,)
            found = [await dialect.by_adapter(raw.url)]
            if nth % 7 == 0:
                found.append(await dialect.by_sdk(raw.url))
            for one in found:
                assert one.text.startswith("Hola, ¿qué tal? "), changed
                assert one.error in ("", "bad_response", "overloaded"), changed


def changes_of(value: Any) -> list[Any]:
    """Return the value with another type at each place in it."""
    changes = list(VALUES)
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        for changed in changes_of(part):
            copy = value.copy()
            copy[name] = changed
            changes.append(copy)
    return changes
