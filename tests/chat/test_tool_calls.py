"""Calls of tools as each provider streams them, read by its adapter and by its SDK."""

import json
from collections.abc import AsyncIterator
from dataclasses import astuple, replace
from typing import Any

import pytest
from pytest_django import Settings

from chat.llm.providers import sdk
from chat.llm.providers.base import AnswerOptions, Delta, Tool, ToolCall, ToolCallPart
from chat.llm.providers.http import close_session
from chat.llm.providers.tool_calls import StreamedCalls
from tests.chat.dialects import CHAT, DIALECTS, FAMILIES, GEMINI, MESSAGES, Dialect, both, both_of_each
from tests.chat.reading import Read
from tests.chat.test_odd_providers import changes_of
from tests.chat.transcripts import Script, whole
from tests.chat.wire import STREAM, answering, events

OFFERED = AnswerOptions(tools=(Tool("get_weather"), Tool("now")))
QUITO = ToolCall("call_1", "get_weather", '{"city":"Quito ñ😀"}')
NOW = ToolCall("toolu_2", "now", "{}")
PARALLEL = Script(
    text=("A mo", "ment. "),
    reasoning=("Hm. ",),
    calls=(("call_1", "get_weather", ('{"ci', 'ty":"Quito ñ', '😀"}')), ("toolu_2", "now", ("{}",))),
    end="tool_calls",
    usage=(12, 30, 0, 0, 5),
)


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


def said(read: Read) -> list[tuple[str, str]]:
    return [(call.name, call.arguments) for call in read.calls]


# --- As they should be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [None, 7])
async def test_text_and_parallel_calls_are_read_as_the_sdk_reads_them(dialect: Dialect, every: int | None):
    [response] = whole(dialect.speak(PARALLEL), every=every)
    pieces = [response] if every is None else [response[at : at + 150] for at in range(0, len(response), 150)]
    ours, theirs = await both(dialect, *pieces, pause_seconds=0.001, options=OFFERED)
    assert astuple(ours) == astuple(theirs)
    assert ours == Read("A moment. ", "Hm. ", "tool_call", PARALLEL.usage, calls=[QUITO, NOW])


async def test_calls_are_not_read_where_no_tool_was_offered(dialect: Dialect):
    for found in await both(dialect, *whole(dialect.speak(PARALLEL))):
        assert found == Read("A moment. ", "Hm. ", "tool_call", PARALLEL.usage)


async def test_an_answer_without_a_call_is_the_same_with_tools_and_without(dialect: Dialect):
    plain = Script(reasoning=("¿Sí? ",))
    response = whole(dialect.speak(plain))
    for found in (*await both(dialect, *response), *await both(dialect, *response, options=OFFERED)):
        assert found == Read("".join(plain.text), "¿Sí? ", "stop", plain.usage)


async def test_an_answer_may_be_nothing_but_a_call(dialect: Dialect):
    script = replace(PARALLEL, text=(), reasoning=(), calls=PARALLEL.calls[:1])
    for found in await both(dialect, *whole(dialect.speak(script)), options=OFFERED):
        assert (found.text, found.finish, found.calls) == ("", "tool_call", [QUITO])


async def test_a_call_without_arguments_has_an_empty_object(dialect: Dialect):
    """As OpenAI itself says: what reads its answers expects one."""
    pieces = ("{}",) if dialect.adapter == "openai_chat" else ()
    script = replace(PARALLEL, calls=(("toolu_2", "now", pieces),))
    for found in await both(dialect, *whole(dialect.speak(script)), options=OFFERED):
        assert found.calls == [NOW]


async def test_a_call_that_is_cut_off_ends_as_a_text_does(dialect: Dialect):
    script = replace(PARALLEL, calls=(("call_1", "get_weather", ("{}",)),), end="length")
    for found in await both(dialect, *whole(dialect.speak(script)), options=OFFERED):
        assert (found.finish, len(found.calls)) == ("length", 1)


async def test_calls_before_an_error_are_kept(dialect: Dialect):
    script = replace(PARALLEL, broken="error")
    for found in await both(dialect, *whole(dialect.speak(script)), options=OFFERED):
        assert (found.text, found.calls, found.error) == ("A moment. ", [QUITO, NOW], "overloaded")


async def test_google_gives_its_calls_no_ids():
    script = replace(PARALLEL, calls=tuple(("", name, pieces) for _, name, pieces in PARALLEL.calls))
    for found in await both(GEMINI, *whole(GEMINI.speak(script)), options=OFFERED):
        assert said(found) == [(QUITO.name, QUITO.arguments), (NOW.name, NOW.arguments)]
        assert len({call.id for call in found.calls}) == 2
        assert all(call.id.startswith("call_") for call in found.calls)


# --- As OpenAI-compatible servers send them --------------------------------------------------------------------------


def entry(index: Any = None, call_id: Any = None, name: Any = None, arguments: Any = None) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    fields = {
        "index": index,
        "id": call_id,
        "function": {key: value for key, value in function.items() if value is not None},
    }
    return {key: value for key, value in fields.items() if value is not None}


A, B = ("a", '{"x":1}'), ("b", '{"y":2}')
ODD: dict[str, tuple[list[Any], list[tuple[str, str]]]] = {
    "0 of every call, whole": ([[entry(0, "i", *A)], [entry(0, "j", *B)]], [A, B]),
    "0 of every call, in parts": (
        [
            [entry(0, "i", "a", "")],
            [entry(0, None, None, A[1])],
            [entry(0, "j", "b", "")],
            [entry(0, None, None, B[1])],
        ],
        [A, B],
    ),
    "no index, whole, in one event": ([[entry(None, "i", *A), entry(None, "j", *B)]], [A, B]),
    "no index, no ids": ([[entry(None, None, *A)], [entry(None, None, *B)]], [A, B]),
    "no index, no ids, the same twice": ([[entry(None, None, *A)], [entry(None, None, *A)]], [A, A]),
    "no index, in parts": (
        [
            [entry(None, "i", "a")],
            [entry(None, None, None, A[1])],
            [entry(None, "j", "b")],
            [entry(None, "j", None, B[1])],
        ],
        [A, B],
    ),
    "no index, ids in turns": (
        [
            [entry(None, "i", "a"), entry(None, "j", "b")],
            [entry(None, "j", None, B[1])],
            [entry(None, "i", None, A[1])],
        ],
        [A, B],
    ),
    "indexes in turns": (
        [[entry(0, "i", "a"), entry(1, "j", "b")], [entry(1, None, None, B[1]), entry(0, None, None, A[1])]],
        [A, B],
    ),
    "id and name in each part": ([[entry(0, "i", "a", '{"x"')], [entry(0, "i", "a", ":1}")]], [A]),
    "id and name in each part, no index": ([[entry(None, "i", "a", '{"x"')], [entry(None, "i", "a", ":1}")]], [A]),
    "another id in each part": ([[entry(0, "i", "a", '{"x"')], [entry(0, "j", None, ":1}")]], [A]),
    "another index in each part": ([[entry(0, "i", "a", '{"x"')], [entry(1, None, None, ":1}")]], [A]),
    "name after the id": ([[entry(0, "i")], [entry(0, None, "a", A[1])]], [A]),
    "name after the arguments": ([[entry(0, "i", None, '{"x"')], [entry(0, None, "a", ":1}")]], [A]),
    "arguments as an object": ([[entry(0, "i", "a", {"x": 1})]], [A]),
    "arguments as a list": ([[entry(0, "i", "a", [1])]], [("a", "[1]")]),
    "arguments of another type": ([[entry(0, "i", "a", 5)], [entry(0, None, None, A[1])]], [A]),
    "the same id of two": ([[entry(0, "i", *A), entry(1, "i", *B)]], [A, B]),
    "huge indexes": ([[entry(10**30, "i", *A), entry(-1, "j", *B)]], [A, B]),
    "indexes of other types": ([[entry("0", "i", *A), entry(True, "j", *B), entry([], "k", *A)]], [A, B, A]),
    "one that is no list": ([entry(0, "i", *A)], [A]),
    "rubbish around it": (
        [[None, 5, "x", [], {}, {"function": 5}, entry(0, "i", *A), {"index": 0, "function": []}]],
        [A],
    ),
    "nothing but NUL": ([[entry(0, "\0", "\0", "")], [entry(0, "i\0", "a\0", A[1] + "\0")]], [A]),
    "ids of other types": ([[entry(0, 7, "a", A[1])]], [A]),
}
READ_BY_US = ("one that is no list", "rubbish around it")
"""OpenAI's SDK breaks at them, or shows other things."""


def deltas(*lists: Any, reason: str | None = "stop", late: Any = None) -> list[str]:
    """Return events with these `tool_calls`, then the reason, and more of them after it."""

    def event(calls: Any, why: str | None) -> str:
        return json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": why}]})

    return [*(event(calls, None) for calls in lists), event([], reason), *([event(late, None)] if late else [])]


@pytest.mark.parametrize("name", ODD)
async def test_calls_are_told_apart_however_they_are_numbered(name: str):
    lists, expected = ODD[name]
    ours, theirs = await both(CHAT, events(deltas(*lists)), options=OFFERED)
    assert (said(ours), ours.finish, ours.error) == (expected, "tool_call", "")
    assert len({call.id for call in ours.calls}) == len(ours.calls)
    if name not in READ_BY_US:
        assert (said(theirs), theirs.finish, theirs.error) == (expected, "tool_call", "")


async def test_calls_after_the_finish_reason_are_read():
    late = [entry(0, "i", *A)]
    for found in await both(CHAT, events(deltas(reason="tool_calls", late=late)), options=OFFERED):
        assert (said(found), found.finish, found.error) == ([A], "tool_call", "")


async def test_text_after_a_call_is_read():
    text = json.dumps({"choices": [{"delta": {"content": "That is all."}, "finish_reason": "stop"}]})
    for found in await both(CHAT, events([*deltas([entry(0, "i", *A)], reason=None), text]), options=OFFERED):
        assert (found.text, said(found), found.finish) == ("That is all.", [A], "tool_call")


async def test_arguments_that_are_nested_too_deep_are_a_bad_response():
    deep = '{"choices":[{"delta":{"tool_calls":[{"function":{"name":"a","arguments":%s}}]}}]}' % ("[" * 990 + "]" * 990)
    for found in await both(CHAT, events([*deltas([entry(0, "i", *A)], reason=None), deep]), options=OFFERED):
        assert said(found)[0] == A
        assert found.error in ("bad_response", "truncated")


# --- Characters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "arguments"),
    [
        (('{"a":"\ud83d', '\ude00"}'), '{"a":"😀"}'),
        (('{"a":"\ud83d', '"}'), '{"a":"\ufffd"}'),
        (('{"a":"', '\ude00"}'), '{"a":"\ufffd"}'),
        (('{"a":"\ud83d',), '{"a":"\ufffd'),
        (('{"a":"\0', 'b"}'), '{"a":"b"}'),
    ],
    ids=["joined", "the first alone", "the second alone", "at the end", "nul"],
)
@pytest.mark.parametrize("dialect", [CHAT, MESSAGES], ids=lambda dialect: dialect.name)
async def test_halves_of_a_character_are_joined_in_the_arguments_of_each_call(
    dialect: Dialect, pieces: tuple[str, ...], arguments: str
):
    """Two calls at once, so that a half of one is not put to the other."""
    script = Script(calls=(("i", "a", pieces), ("j", "b", pieces)), end="tool_calls", escaped=True)
    for found in await both(dialect, STREAM, *dialect.speak(script), pause_seconds=0.002, options=OFFERED):
        assert (said(found), found.error) == ([("a", arguments), ("b", arguments)], "")


async def test_halves_in_a_call_of_google_are_replaced():
    script = Script(calls=(("i\ud83d", "a", ('{"a":"\ud83d"}',)),), end="tool_calls", escaped=True)
    for found in await both(GEMINI, STREAM, *GEMINI.speak(script), options=OFFERED):
        assert found.calls == [ToolCall("i\ufffd", "a", '{"a":"\ufffd"}')]


async def test_halves_in_ids_and_names_are_replaced():
    for found in await both(CHAT, events(deltas([entry(0, "i\ud83d", "a\ud83d", "{}")])), options=OFFERED):
        assert found.calls == [ToolCall("i\ufffd", "a\ufffd", "{}")]


# --- From anybody ----------------------------------------------------------------------------------------------------


CALLS_OF_EACH: dict[str, list[Any]] = {
    "openai_chat": [{"choices": [{"delta": {"tool_calls": [entry(0, "i", *A)]}}]}],
    "anthropic_messages": [
        {"type": "content_block_start", "content_block": {"type": "tool_use", "id": "i", "name": "a", "input": {}}},
        {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "content_block_stop", "index": 0},
    ],
    "gemini": [
        {"candidates": [{"content": {"parts": [{"functionCall": {"id": "i", "name": "a", "args": {"x": 1}}}]}}]}
    ],
}


@pytest.mark.parametrize("dialect", FAMILIES, ids=lambda dialect: dialect.name)
async def test_any_type_at_any_place_of_a_call_is_an_answer_or_an_error(dialect: Dialect):
    """What holds for each call is in `Read.add`; the SDK, which costs more, reads every ninth."""
    *before, end = dialect.speak(Script())
    spoken = CALLS_OF_EACH[dialect.name]
    all_changes = [
        [*spoken[:at], change, *spoken[at + 1 :]] for at, event in enumerate(spoken) for change in changes_of(event)
    ]
    async with answering() as raw:
        for nth, changed in enumerate(all_changes):
            named = [b"event: %s\n" % one.get("type", "x").encode() if dialect is MESSAGES else b"" for one in spoken]
            odd = [name + b"data: " + json.dumps(one).encode() for name, one in zip(named, changed, strict=True)]
            raw.pieces = (STREAM + b"".join(before) + b"\n\n".join(odd) + b"\n\n" + end,)
            found = [await dialect.by_adapter(raw.url, options=OFFERED)]
            if nth % 9 == 0:
                found.append(await dialect.by_sdk(raw.url, options=OFFERED))
            for one in found:
                assert one.text.startswith("".join(Script().text)), changed
                assert one.error in ("", "bad_response", "overloaded"), changed


def test_a_flood_of_calls_that_say_nothing_is_nothing():
    """Whoever counts the characters of what is yielded knows how much is kept."""
    calls = StreamedCalls()
    for index in range(10_000):
        assert calls.read([{"index": index, "id": "", "function": {"name": "", "arguments": ""}}, {}, None]) == []
    assert not calls._by_id
    assert not calls._by_index


def test_a_call_that_is_known_is_kept_once():
    calls = StreamedCalls()
    parts = [part for _ in range(1_000) for part in calls.read([entry(0, "i", "a", "{")])]
    assert parts == [ToolCallPart(0, "i", "a", "{"), *[ToolCallPart(0, arguments="{")] * 999]
    assert len(calls._by_id) == len(calls._by_index) == 1


async def test_parts_of_a_call_that_come_together_are_one(dialect: Dialect):
    async with answering(b"".join(whole(dialect.speak(PARALLEL)))) as raw:
        stream = dialect.stream(dialect.request(raw.url, options=OFFERED))
        [delta] = [event async for event in stream if isinstance(event, Delta)]
    parts = [ToolCallPart(place, *astuple(call)) for place, call in enumerate((QUITO, NOW))]
    assert delta == Delta("A moment. ", "Hm. ", tuple(parts))


async def test_several_answers_have_calls_of_their_own(dialect: Dialect):
    responses = [b"".join(whole(dialect.speak(PARALLEL)))] * 2
    async for _, ours, theirs in both_of_each(dialect, responses, options=OFFERED):
        assert ours.calls == theirs.calls == [QUITO, NOW]
