"""Answers that are none: the model declines, calls a tool, or ends without a word. Each says so, everywhere."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from django.test import AsyncClient, Client
from django.utils import translation
from pytest_django import Settings
from redis.asyncio import Redis

from accounts.api.views import tokens_for
from accounts.models import User
from chat.errors import OTHER_WAYS, SENTENCES
from chat.llm.catalog import Candidate
from chat.llm.providers import anthropic_messages, gemini, openai_chat, sdk
from chat.llm.providers.base import Message, ModelRequest, Provider, Stream
from chat.llm.providers.http import close_session
from chat.llm.title_generation import make_title, title_request
from chat.models import LanguageModel
from chat.provider_registry import KNOWN_PROVIDERS
from chat.shown.fragments import turn_html
from chat.shown.sentences import (
    CHARGED_FOR_READING,
    CHARGED_FOR_WORK,
    CHARGED_MORE,
    CHARGED_NOTHING,
    error_sentence,
)
from chat.turns.answer_cache import cache_keys
from chat.turns.closing import can_continue
from chat.turns.prompts import fit_prompt
from chat.turns.runner import Runner
from core.threads import in_thread
from history.models import Conversation, TitledBy, Turn, new_id
from testbed.provider import FakeProvider
from tests.chat.asking import aask, closed, eventually, record_of
from tests.chat.conftest import Offer
from tests.chat.live import page_of
from tests.chat.reading import Read, read
from tests.chat.wire import STREAM, answering

# --- On the wire ------------------------------------------------------------------------------------------------------

ADAPTERS: dict[str, Stream] = {
    "openai": openai_chat.stream,
    "deepseek": openai_chat.stream,
    "anthropic": anthropic_messages.stream,
    "gemini": gemini.stream,
}


@pytest.fixture(params=["fast", "sdk"])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    yield request.param
    await close_session()
    await sdk.close_clients()


def event(data: dict[str, Any] | str) -> bytes:
    if isinstance(data, str):
        return f"data: {data}\n\n".encode()
    name = f"event: {data['type']}\n" if "type" in data else ""  # Anthropic's have one, and its SDK goes by that
    return f"{name}data: {json.dumps(data)}\n\n".encode()


async def read_from(slug: str, transport: str, *datas: dict[str, Any] | str) -> Read:
    """Return what is read of a stream with these events."""
    known = KNOWN_PROVIDERS[slug]
    async with answering(STREAM + b"".join(map(event, datas))) as raw:
        provider = Provider(slug, slug, known.adapter, raw.url, "sk-secret", parameters=known.parameters)
        request = ModelRequest(provider=provider, model="m", messages=(Message("user", "hola"),), max_output=100)
        async with aclosing((ADAPTERS[slug] if transport == "fast" else sdk.stream)(request)) as stream:
            return await read(stream)


def chat(*deltas: dict[str, Any], end: str) -> list[dict[str, Any] | str]:
    """The events of OpenAI and DeepSeek."""
    base = {"id": "c_1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    ends: tuple[tuple[dict[str, Any], str | None], ...] = (*((delta, None) for delta in deltas), ({}, end))
    choices = [[{"index": 0, "delta": delta, "finish_reason": reason}] for delta, reason in ends]
    usage = {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19}
    return [*({**base, "choices": choice} for choice in choices), {**base, "choices": [], "usage": usage}, "[DONE]"]


def messages(*blocks: tuple[dict[str, Any], dict[str, Any]], end: str) -> list[dict[str, Any] | str]:
    """The events of Anthropic; of each block how it starts, and its delta."""
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
    said: list[dict[str, Any] | str] = [
        {"type": "message_start", "message": {**message, "usage": {"input_tokens": 12, "output_tokens": 1}}}
    ]
    for index, (block, delta) in enumerate(blocks):
        said += [
            {"type": "content_block_start", "index": index, "content_block": block},
            {"type": "content_block_delta", "index": index, "delta": delta},
            {"type": "content_block_stop", "index": index},
        ]
    ended = {"type": "message_delta", "delta": {"stop_reason": end}, "usage": {"output_tokens": 7}}
    return [*said, ended, {"type": "message_stop"}]


def candidates(*parts: dict[str, Any], end: str) -> list[dict[str, Any] | str]:
    """The events of Gemini."""
    usage = {"promptTokenCount": 12, "candidatesTokenCount": 7, "totalTokenCount": 19}
    ended = {"candidates": [{"content": {"parts": []}, "finishReason": end}], "usageMetadata": usage}
    return [*({"candidates": [{"content": {"parts": [part], "role": "model"}}]} for part in parts), ended]


TOOL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
SAYS = ({"type": "text", "text": ""}, {"type": "text_delta", "text": "Let me look."})
USES = (
    {"type": "tool_use", "id": "toolu_1", "name": "search", "input": {}},
    {"type": "input_json_delta", "partial_json": "{}"},
)
CALLS = {"functionCall": {"name": "search", "args": {}}}

ENDS = {
    "a refusal in words": ("openai", chat({"refusal": "I would "}, {"refusal": "rather not."}, end="stop"), "refusal"),
    "a refusal that is cut": ("openai", chat({"refusal": "I would rather not."}, end="length"), "refusal"),
    "a refusal that is filtered": ("openai", chat({"refusal": "I…"}, end="content_filter"), "content_filter"),
    "no refusal": ("openai", chat({"content": "Hola.", "refusal": None, "tool_calls": []}, end="stop"), "stop"),
    "tool calls": ("openai", chat({"tool_calls": [TOOL]}, end="tool_calls"), "tool_call"),
    "a tool call after text": ("openai", chat({"content": "So."}, {"tool_calls": [TOOL]}, end="stop"), "tool_call"),
    "a function call": ("openai", chat({"function_call": {"name": "f"}}, end="function_call"), "tool_call"),
    "nothing": ("openai", chat(end="stop"), "stop"),
    "deepseek filters": ("deepseek", chat({"content": "So."}, end="content_filter"), "content_filter"),
    "deepseek calls tools": ("deepseek", chat({"tool_calls": [TOOL]}, end="tool_calls"), "tool_call"),
    "deepseek only thinks": ("deepseek", chat({"reasoning_content": "Hm."}, end="length"), "length"),
    "claude refuses": ("anthropic", messages(end="refusal"), "refusal"),
    "claude refuses after text": ("anthropic", messages(SAYS, end="refusal"), "refusal"),
    "claude uses a tool": ("anthropic", messages(SAYS, USES, end="tool_use"), "tool_call"),
    "claude pauses": ("anthropic", messages(SAYS, end="pause_turn"), "tool_call"),
    "claude says nothing": ("anthropic", messages(end="end_turn"), "stop"),
    "gemini calls": ("gemini", candidates({"text": "So."}, CALLS, end="STOP"), "tool_call"),
    "gemini calls badly": ("gemini", candidates(end="MALFORMED_FUNCTION_CALL"), "tool_call"),
    "gemini calls what is not there": ("gemini", candidates(end="UNEXPECTED_TOOL_CALL"), "tool_call"),
    "gemini filters a call": ("gemini", candidates(CALLS, end="SAFETY"), "content_filter"),
    "gemini recites": ("gemini", candidates({"text": "So."}, end="RECITATION"), "content_filter"),
    "gemini must not": ("gemini", candidates(end="PROHIBITED_CONTENT"), "content_filter"),
    "gemini says nothing": ("gemini", candidates(end="STOP"), "stop"),
    "gemini only thinks": ("gemini", candidates({"text": "Hm.", "thought": True}, end="MAX_TOKENS"), "length"),
}


@pytest.mark.parametrize(("slug", "said", "finish"), ENDS.values(), ids=ENDS)
async def test_what_came_in_place_of_an_answer_is_told(slug: str, said: list[Any], finish: str, transport: str):
    found = await read_from(slug, transport, *said)
    assert (found.finish, found.error, found.usage) == (finish, "", (12, 7, 0, 0, 0))


async def test_the_words_of_a_refusal_are_its_text(transport: str):
    found = await read_from("openai", transport, *ENDS["a refusal in words"][1])
    assert found.text == "I would rather not."


async def test_the_words_of_a_refusal_after_text_are_a_paragraph_of_their_own(transport: str):
    said = chat({"content": "Hola"}, {"content": "."}, {"refusal": "I would "}, {"refusal": "rather not."}, end="stop")
    assert (await read_from("openai", transport, *said)).text == "Hola.\n\nI would rather not."


async def test_a_question_that_gemini_blocks_is_filtered_whatever_the_reason(transport: str):
    found = await read_from("gemini", transport, {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}})
    assert (found.text, found.finish, found.error) == ("", "content_filter", "")


@pytest.mark.parametrize("said", [(), ({"content": "So."},)], ids=["at once", "after text"])
async def test_a_provider_that_ran_out_of_room_failed(said: tuple[dict[str, Any], ...], transport: str):
    found = await read_from("deepseek", transport, *chat(*said, end="insufficient_system_resource"))
    assert found == Read("".join(delta["content"] for delta in said), error="overloaded")


# --- Through the runner -----------------------------------------------------------------------------------------------

OUTCOMES = [
    ("usage:10/0", "failed", "empty_answer", 10),
    ("usage:10/0 end:length", "failed", "thought_too_long", 10),
    ("think:hm usage:10/3", "interrupted", "empty_answer", 16),
    ("think:hm usage:10/3 end:length", "interrupted", "thought_too_long", 16),
    ("end:refusal usage:10/0", "failed", "refusal", 10),
    ("say:No. end:refusal usage:10/3", "interrupted", "refusal", 16),
    ("end:tool_call usage:10/3", "failed", "tool_call", 16),
    ("say:So. end:tool_call usage:10/3", "interrupted", "tool_call", 16),
]


@pytest.mark.parametrize(("script", "status", "code", "cost_micros"), OUTCOMES)
async def test_what_is_no_answer_is_not_complete_and_is_charged_as_counted(
    redis: Redis, runner: Runner, carla: User, script: str, status: str, code: str, cost_micros: int
):
    turn = await closed(await aask(carla, script))
    assert (turn.status, turn.error, turn.cost_micros) == (status, code, cost_micros)
    record = await in_thread(record_of, turn)
    assert record is not None
    assert record.cost_micros == cost_micros
    assert not can_continue(turn)
    assert not await redis.exists(cache_keys(carla.pk)[0])


@pytest.mark.parametrize(
    ("name", "code"), [("fake-0t-0ms", "empty_answer"), ("fake-0t-0ms-r9-length", "thought_too_long")]
)
async def test_nobody_else_is_asked_for_an_answer_that_was_charged(
    redis: Redis, runner: Runner, carla: User, offer: Offer, provider: FakeProvider, name: str, code: str
):
    await in_thread(offer, name, input_price=10, output_price=10)
    await in_thread(offer, "fake-3t-0ms")
    turn = await closed(await aask(carla, "hola", model="auto"))
    assert (turn.model, turn.error, len(provider.requests)) == (name, code, 1)


async def test_blanks_are_no_answer(redis: Redis, runner: Runner, carla: User):
    turn = await closed(await aask(carla, "say: usage:10/1"))
    assert (turn.answer, turn.status, turn.error) == (" ", "interrupted", "empty_answer")
    assert not can_continue(turn)


async def test_a_refusal_to_make_a_title_is_no_title(transport: str, settings: Settings):
    settings.SDK_PROVIDERS = ["openai"] if transport == "sdk" else []
    async with answering(STREAM + b"".join(map(event, ENDS["a refusal in words"][1]))) as raw:
        provider = Provider("openai", "OpenAI", "openai_chat", raw.url, "sk-secret")
        prices = {"input_price": 1, "output_price": 1, "context_window": 8_000}
        model = LanguageModel(key="m", provider="openai", provider_model="m", max_output=100, **prices)
        candidate = Candidate(model, provider)
        title = await make_title(candidate, title_request(candidate, "hola", "¿sí?"))
    assert (title.text, title.usage.output) == ("", 7)


async def test_no_title_is_made_of_a_refusal(
    redis: Redis, runner: Runner, carla: User, offer: Offer, provider: FakeProvider, settings: Settings
):
    settings.MODEL_TITLES = True
    await in_thread(offer, "fake-3t-0ms", input_price=10, output_price=10)
    first = await closed(await aask(carla, "say:No. end:refusal"))
    second = await closed(await aask(carla, "say:hola", conversation_id=first.conversation_id))

    async def named() -> bool:
        conversation = await in_thread(Conversation.objects.get, pk=second.conversation_id)
        return bool(conversation.titled_by == TitledBy.MODEL)

    await eventually(named)
    (sent,) = provider.requests
    assert json.loads(sent["messages"][1]["content"])["question"] == "say:hola"


@pytest.mark.parametrize(
    ("answer", "error", "is_told"),
    [
        ("No.", "refusal", False),  # or Anthropic would refuse whatever is asked next
        (" \n", "empty_answer", False),
        ("So.", "tool_call", True),
        ("So.", "content_filter", True),
        ("So.", "", True),
    ],
)
def test_what_the_next_question_is_sent_with(answer: str, error: str, is_told: bool):
    asked = Turn(question="one", answer=answer, error=error)
    told = [message.text for message in fit_prompt([asked], "two", room=1_000).messages[1:]]
    assert told == (["one", answer, "two"] if is_told else ["two"])


# --- What is said of it -----------------------------------------------------------------------------------------------


def said(sentence: Any, language: str = "en") -> str:
    with translation.override(language):
        return str(sentence)


async def test_the_api_gives_a_code_and_explains_the_charge(ana: User, runner: Runner):
    token = (await in_thread(tokens_for, ana))["access"]
    headers = {"Authorization": f"Bearer {token}", "Accept-Language": "en"}
    path = f"/api/v1/conversations/{new_id()}/turns"
    for script, code, charged in (
        ("think:hm usage:10/3 end:length", "thought_too_long", CHARGED_FOR_WORK),
        ("usage:10/0", "empty_answer", CHARGED_FOR_READING),
        ("say:No. end:refusal usage:10/3", "refusal", ""),
    ):
        body = {"text": script, "model": "scripted", "turn_id": str(new_id())}
        answer = await AsyncClient().post(path, json.dumps(body), content_type="application/json", headers=headers)
        turn = json.loads(b"".join([part async for part in answer.streaming_content]))
        assert turn["error"] == {"code": code, "detail": said(OTHER_WAYS.get(code, SENTENCES[code]))}
        assert (turn["status"] != "completed", turn["cost_detail"]) == (True, said(charged))
        body["stream"] = True
        stream = await AsyncClient().post(path, json.dumps(body), content_type="application/json", headers=headers)
        last = [part async for part in stream.streaming_content][-1].decode()
        end = json.loads(last.partition("data: ")[2])
        assert (end["type"], end["code"]) == (f"turn.{turn['status']}", code)
        assert (end["detail"], end["cost_detail"]) == (turn["error"]["detail"], turn["cost_detail"])
        assert end["turn"] == turn


async def test_the_socket_gives_a_code_and_explains_the_charge(ana: User, runner: Runner):
    async with page_of(ana) as page:
        await page.start("usage:10/0")
        end = await page.ended()
    assert (end["type"], end["code"], end["can_continue"]) == ("turn.failed", "empty_answer", False)
    for sentence in (said(SENTENCES["empty_answer"], "es"), said(CHARGED_FOR_READING, "es")):
        assert sentence in end["html"]
    assert end["cost_detail"] == said(CHARGED_FOR_READING, "es")


CHARGES = (CHARGED_FOR_READING, CHARGED_FOR_WORK, CHARGED_NOTHING, CHARGED_MORE)
CHARGED = {"status": "failed", "cost_micros": 16, "input_tokens": 10, "output_tokens": 3, "usage_source": "provider"}


@pytest.mark.parametrize(
    ("fields", "sentence", "buttons"),
    [
        (CHARGED | {"error": "empty_answer"}, CHARGED_FOR_WORK, {"again"}),
        (CHARGED | {"error": "empty_answer", "output_tokens": 0}, CHARGED_FOR_READING, {"again"}),
        (CHARGED | {"error": "thought_too_long", "finish_reason": "length"}, CHARGED_FOR_WORK, {"again"}),
        (CHARGED | {"error": "tool_call", "cost_micros": 0}, CHARGED_NOTHING, {"again"}),  # of a model that is free
        ({"error": "overloaded", "status": "failed"}, CHARGED_NOTHING, {"again"}),
        (
            CHARGED | {"error": "refusal", "answer": "No.", "max_cost_micros": 15},
            CHARGED_MORE,
            {"again", "copy-answer"},
        ),
        (CHARGED | {"error": "refusal", "status": "interrupted", "answer": "No."}, "", {"again", "copy-answer"}),
        (CHARGED | {"error": "tool_call", "status": "interrupted", "answer": "So."}, "", {"again", "copy-answer"}),
    ],
)
def test_the_page_says_what_happened_and_what_was_paid_for(
    ana: User, fields: dict[str, Any], sentence: Any, buttons: set[str]
):
    ana.locale = "en"
    ana.save()
    conversation = Conversation.objects.create(pk=new_id(), owner_id=ana.pk, title="One", turn_count=1)
    asked = {"owner_id": ana.pk, "conversation_id": conversation.pk, "seq": 1, "model": "scripted", "max_output": 9}
    Turn.objects.create(pk=new_id(), question="Why?", requested_model="scripted", **asked, **fields)
    browser = Client()
    browser.force_login(ana)
    page = browser.get(f"/c/{conversation.pk}/").text
    assert said(OTHER_WAYS.get(fields["error"], SENTENCES[fields["error"]])) in page
    assert fields.get("answer", "") in page
    assert "maximum length" not in page
    paid_for = {charge for charge in CHARGES if said(charge) in page}
    assert paid_for == ({sentence} if sentence else set())
    offered = {name for name in ("again", "copy-answer") if f"data-{name}\n" in page or f"data-{name}>" in page}
    assert offered == buttons
    assert "Go on where you stopped" not in page


@pytest.mark.parametrize("error", ["truncated", "runner_lost"])
def test_only_an_answer_that_can_go_on_says_so(error: str):
    with translation.override("en"):
        assert error_sentence(Turn(status="interrupted", answer="So.", error=error)) == SENTENCES[error]
        for answer in ("", " "):
            assert error_sentence(Turn(status="failed", answer=answer, error=error)) == OTHER_WAYS[error]


def test_less_effort_is_advised_only_where_there_are_levels(catalog: None):
    turn = Turn(status="failed", error="thought_too_long", model="scripted")
    with translation.override("en"):
        assert error_sentence(turn) == OTHER_WAYS["thought_too_long"]
        model = LanguageModel.objects.get(key="scripted")
        model.efforts = "low high"
        model.save()
        assert error_sentence(turn) == SENTENCES["thought_too_long"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [({}, "Stopped before anything was written."), ({"answer": "So."}, "Stopped. What was written is kept.")],
)
def test_a_stop_says_whether_something_was_kept(fields: dict[str, str], sentence: str):
    with translation.override("en"):
        html = turn_html(Turn(pk=new_id(), status="stopped", question="Why?", **fields))
    assert [said.strip() for said in re.findall(r"Stopped[^<]*", html)] == [sentence]
