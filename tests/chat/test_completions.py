"""The OpenAI-compatible API, without a server: what is asked, answered, refused, counted and kept. The SDKs ask a real
one in tests/processes/test_openai_clients.py."""

import asyncio
import base64
import gc
import io
import json
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.test import AsyncClient
from PIL import Image
from redis.asyncio import Redis

from accounts import closure
from accounts.keys import revoke_key
from accounts.models import ApiKey, User
from billing import metering
from billing.errors import TooManyAtOnce
from billing.models import PartMonth, Plan, Reservation, UsageRecord
from chat.api.openai import requests, views
from chat.api.openai.answers import Chunks
from chat.api.openai.requests import BadParameter
from chat.llm import recordings, spending
from chat.llm.providers.base import NO_OPTIONS, Message, ToolCallPart
from chat.models import LanguageModel, ProviderLimit
from chat.turns.asked import Asked, asked_key, forget_asked, keep_asked
from chat.turns.called_tools import MAX_CALLS, read_parts, write_calls
from chat.turns.completing import Completion, open_completion
from chat.turns.known_turns import HELD_GRACE
from chat.turns.log import Entry, EntryKind
from chat.turns.runner import Runner
from chat.turns.sweeping import settle_unsettled
from chat.turns.watching import hub
from config.bodies import COMPLETION_BYTES
from core.errors import Conflict
from core.redis_clients import sync_redis
from core.threads import in_thread
from history import access
from history.errors import TemporaryGone
from history.models import Conversation, Turn
from history.temporary import begin_conversation, new_completion_id, new_turn_id
from tests.chat.asking import aask
from tests.chat.conftest import Offer, running
from tests.chat.everything import everything_stored
from tests.chat.http_streams import HttpStream
from tests.chat.programs import JSON, TOOL, an_image, answered, ask, call, key_of, refused, streamed, turn_of, user

pytestmark = pytest.mark.usefixtures("catalog")


def change(kind: Any, key: str, **fields: Any) -> None:
    row = kind.objects.get(key=key)
    for name, value in fields.items():
        setattr(row, name, value)
    row.save()


def _tool(value: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "weather", "parameters": {"default": value}}}


def _format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.fixture
async def secret(carla: User) -> str:
    return await in_thread(key_of, carla)


# --- Models -----------------------------------------------------------------------------------------------------------


async def test_auto_is_the_first_model_and_each_can_be_asked_for(secret: str):
    listed = json.loads((await call(secret, "models")).content)
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]][:2] == ["auto", "scripted"]
    assert all(model.keys() == {"id", "object", "created", "owned_by"} for model in listed["data"])
    for model in listed["data"]:
        assert json.loads((await call(secret, f"models/{model['id']}")).content) == model
    assert await refused(await call(secret, "models/gpt-2")) == (404, "model_not_found", None)


async def test_a_key_sees_its_models(carla: User, offer: Offer):
    await in_thread(offer, "fake-1t-0ms")
    secret = await in_thread(key_of, carla, model_ids=("fake-1t-0ms",))
    listed = json.loads((await call(secret, "models")).content)["data"]
    assert [model["id"] for model in listed] == ["auto", "fake-1t-0ms"]
    assert (await call(secret, "models/scripted")).status_code == 404


# --- Answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.stores
async def test_an_answer_is_a_chat_completion(secret: str, runner: Runner):
    answer = await ask(secret, "think:hm say:hola usage:10/3")
    document = json.loads(answer.content)
    assert (document["object"], document["model"]) == ("chat.completion", "scripted")
    [choice] = document["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"] == {
        "role": "assistant",
        "content": "hola ",
        "refusal": None,
        "reasoning_content": "hm ",
    }
    usage = document["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (10, 3, 13)
    assert usage["cost_micros"] == 16 == int(answer["X-Cost-Micros"])
    assert answer["X-Request-ID"]


@pytest.mark.stores
async def test_a_stream_is_chunks_and_ends_with_what_was_used(secret: str, runner: Runner):
    *chunks, usage, done = await streamed(
        secret, "think:hm say:hola wait:0.1 say:mundo usage:10/3", stream_options={"include_usage": True}
    )
    assert done == "[DONE]"
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in (*chunks, usage)}) == 1
    assert (chunks[0]["object"], chunks[0]["model"]) == ("chat.completion.chunk", "scripted")
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == "hola mundo "
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm "
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert (usage["choices"], usage["usage"]["total_tokens"], usage["usage"]["cost_micros"]) == ([], 13, 16)


async def test_without_being_asked_a_stream_does_not_tell_its_usage(secret: str, runner: Runner):
    events = await streamed(secret)
    assert not any("usage" in event for event in events[:-1])


async def test_a_model_gets_the_conversation_as_it_was_sent(secret: str, runner: Runner):
    tools = [TOOL | {"function": TOOL["function"] | {"description": "Asks."}}]
    document = await answered(
        secret,
        messages=[
            {"role": "developer", "content": "Be terse."},
            user("¿Qué tiempo hace?"),
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "Llueve."},
            {"role": "user", "content": [{"type": "text", "text": "tell"}]},
        ],
        tools=tools,
        tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False,
        temperature=0.5,
        top_p=0.9,
        seed=7,
        presence_penalty=0.1,
        frequency_penalty=-0.1,
        stop=["FIN"],
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    )
    messages, options = json.loads(document["choices"][0]["message"]["content"])
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool", "user"]
    assert [message["text"] for message in messages] == ["Be terse.", "¿Qué tiempo hace?", "", "Llueve.", "tell"]
    assert messages[2]["tool_calls"] == [{"id": "c1", "name": "weather", "arguments": "{}"}]
    assert messages[3]["tool_call_id"] == "c1"
    assert (options["temperature"], options["top_p"], options["seed"], options["stop"]) == (0.5, 0.9, 7, ["FIN"])
    assert (options["presence_penalty"], options["frequency_penalty"]) == (0.1, -0.1)
    assert (options["tool_choice"], options["parallel_tool_calls"]) == ("tool:weather", False)
    assert options["tools"][0]["description"] == "Asks."
    assert options["json"]["schema"] == {"type": "object"}


@pytest.mark.stores
async def test_tools_are_called(secret: str, runner: Runner):
    text = 'say:Veamos call:weather/{"city":"Lima"} call:weather/{"city":"Quito"} usage:50/20'
    document = await answered(secret, text, tools=[TOOL])
    [choice] = document["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "Veamos ")
    assert [call["function"] for call in choice["message"]["tool_calls"]] == [
        {"name": "weather", "arguments": '{"city":"Lima"}'},
        {"name": "weather", "arguments": '{"city":"Quito"}'},
    ]
    assert [call["id"] for call in choice["message"]["tool_calls"]] == ["call_0", "call_1"]
    *chunks, _done = await streamed(secret, text, tools=[TOOL])
    parts = [part for chunk in chunks for part in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert [(part["index"], part["id"]) for part in parts if "id" in part] == [(0, "call_0"), (1, "call_1")]
    assert "".join(part["function"]["arguments"] for part in parts if part["index"] == 1) == '{"city":"Quito"}'
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    records = await in_thread(lambda: list(UsageRecord.objects.values_list("output_tokens", flat=True)))
    assert records == [20, 20]


async def test_tools_alone_are_an_answer(secret: str, runner: Runner):
    document = await answered(secret, "call:weather/{}", tools=[TOOL])
    message = document["choices"][0]["message"]
    assert (message["content"], len(message["tool_calls"])) == (None, 1)
    assert document["usage"]["completion_tokens"] > 0  # it is paid, though nobody counted it


async def test_an_image_is_shown_to_a_model_that_sees(secret: str, runner: Runner):
    content = [{"type": "text", "text": "say:hola"}, {"type": "image_url", "image_url": {"url": an_image()}}]
    assert await refused(await ask(secret, messages=[{"role": "user", "content": content}])) == (400, "no_vision", None)
    await in_thread(change, LanguageModel, "scripted", sees_images=True)
    assert await answered(secret, messages=[{"role": "user", "content": content}])


@pytest.mark.parametrize("ended", ["length", "content_filter"])
async def test_an_answer_says_why_it_ended(secret: str, runner: Runner, ended: str):
    document = await answered(secret, f"say:hola end:{ended}")
    assert document["choices"][0]["finish_reason"] == ended
    assert document["choices"][0]["message"]["content"] == "hola "
    assert (await streamed(secret, f"say:hola end:{ended}"))[-2]["choices"][0]["finish_reason"] == ended


async def test_a_model_that_declines_says_so(secret: str, runner: Runner):
    message = (await answered(secret, "say:No. end:refusal"))["choices"][0]["message"]
    assert (message["content"], message["refusal"]) == (None, "No. ")


async def test_an_answer_without_a_word_is_empty(secret: str, runner: Runner):
    [choice] = (await answered(secret, "usage:5/0"))["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")
    [choice] = (await answered(secret, "think:hm end:length"))["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")


async def test_a_call_that_cannot_be_made_out_is_none(secret: str, runner: Runner):
    [choice] = (await answered(secret, "end:tool_call", tools=[TOOL]))["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")


async def test_the_answer_is_no_longer_than_asked(secret: str, runner: Runner):
    await answered(secret, max_tokens=7)
    await answered(secret, max_completion_tokens=8)
    held = await in_thread(
        lambda: list(Reservation.objects.order_by("created_at").values_list("amount_micros", flat=True))
    )
    assert held[0] < held[1]


async def test_an_answer_is_no_longer_than_the_plan_allows(ana: User, runner: Runner):
    await in_thread(change, Plan, "free", answer_tokens=50, has_api=True)
    secret = await in_thread(key_of, ana)
    await answered(secret)
    await answered(secret, max_tokens=10_000_000)
    plain, wanted = await in_thread(lambda: list(Reservation.objects.values_list("amount_micros", flat=True)))
    assert plain == wanted


async def test_recorded_examples_are_for_pages(secret: str):
    recorded = recordings.list_questions("es")[0]
    assert (await refused(await ask(secret, recorded, model="recorded")))[:2] == (404, "model_not_found")


async def test_auto_goes_on_with_another_provider_when_a_day_is_just_spent(secret: str, runner: Runner, offer: Offer):
    other = await in_thread(lambda: offer("fake-1t-0ms", position=999))
    await answered(secret)  # now this process believes that there is no limit
    await in_thread(ProviderLimit.objects.create, provider="scripted", daily_micros=1)
    assert (await refused(await ask(secret)))[:2] == (503, "spend_limit")
    await in_thread(spending.forget_spending)
    await in_thread(ProviderLimit.objects.all().delete)
    await answered(secret)
    await in_thread(ProviderLimit.objects.create, provider="scripted", daily_micros=1)
    assert (await answered(secret, model="auto"))["model"] == other.key


def test_what_is_judged_is_the_last_question_and_what_is_cached_the_beginning():
    said = (Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    asked = Asked((*said, Message("assistant", "d")), NO_OPTIONS)
    assert (asked.question, asked.beginning) == ("c", "s\na")


def test_what_is_written_again_is_sent_once():
    chunks = Chunks(Turn(pk=new_completion_id()), "m", wants_usage=False)
    assert b'"content":"hola"' in chunks.of(Entry(b"", EntryKind.TEXT, 1, 0, "hola"))
    assert chunks.of(Entry(b"", EntryKind.TEXT, 2, 0, "ho")) == b""
    assert b'"content":" mundo"' in chunks.of(Entry(b"", EntryKind.TEXT, 2, 0, "hola mundo"))


def test_calls_beyond_the_last_that_is_told_apart_are_left_out():
    parts = [ToolCallPart(at, f"call_{at}", "now") for at in (MAX_CALLS - 1, MAX_CALLS)]
    assert write_calls(parts) == write_calls(parts[:1])
    assert [part.index for part in read_parts(write_calls(parts))] == [MAX_CALLS - 1]


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hola"}, "messages"),
        ({"messages": [{"role": "robot", "content": "hola"}]}, "messages[0].role"),
        ({"messages": [{"role": "system", "content": "hola"}]}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "hola"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a\n"}}]}, "tools[0].function.name"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 20_001}]}, "messages"),
        ({"tools": [_tool(10**30)]}, "tools[0].function.parameters"),
        ({"tools": [_tool([10**30])]}, "tools[0].function.parameters"),
        ({"tools": [_tool("a" * 300_000)] * 2}, "tools"),
        ({"response_format": _format({"a": "a" * 600_000})}, "response_format.json_schema.schema"),
        ({"response_format": _format({"a": 10**30})}, "response_format.json_schema.schema"),
        ({"functions": [{}]}, "functions"),
    ],
)
async def test_what_is_not_valid_is_named(secret: str, fields: dict[str, Any], parameter: str):
    status, _code, named = await refused(await ask(secret, **fields))
    assert (status, named) == (400, parameter)
    assert not await in_thread(Reservation.objects.exists)


@pytest.mark.parametrize(
    "url",
    ["https://example.com/a.png", "data:image/png;base64,@@@", "data:image/png;base64,aG9sYQ==", "file:///etc/passwd"],
)
async def test_an_image_that_is_none_is_refused(secret: str, url: str):
    content = [{"type": "image_url", "image_url": {"url": url}}]
    status, _code, _named = await refused(await ask(secret, messages=[{"role": "user", "content": content}]))
    assert status == 400


def _larger_than_it_says() -> str:
    """Return an image whose screen is one pixel, and whose picture has 1,200,000."""
    file = io.BytesIO()
    Image.new("RGB", (1_200, 1_000)).save(file, "GIF")
    data = file.getvalue()
    return f"data:;base64,{base64.b64encode(data[:6] + bytes((1, 0, 1, 0)) + data[10:]).decode()}"


def _large_head() -> str:
    """Return an image that says its size after 600 kB."""
    file = io.BytesIO()
    Image.new("RGB", (1_200, 1_000)).save(file, "JPEG", icc_profile=b"a" * 600_000)
    return f"data:;base64,{base64.b64encode(file.getvalue()).decode()}"


async def test_an_image_is_reserved_for_by_what_is_in_it(secret: str, runner: Runner):
    await in_thread(change, LanguageModel, "scripted", sees_images=True, context_window=1_000_000)
    for url in (an_image(size=(1_200, 1_000)), _larger_than_it_says(), _large_head()):
        content = [{"type": "text", "text": "say:hola"}, {"type": "image_url", "image_url": {"url": url}}]
        await answered(secret, messages=[{"role": "user", "content": content}])
    amounts = await in_thread(lambda: list(Reservation.objects.values_list("amount_micros", flat=True)))
    assert len(amounts) == 3
    assert len(set(amounts)) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff\xe1\x00\x02" * 50_000,
        b"\xff\xd8\xff" + b"\xff" * 50_000,
        b"\xff\xd8\xff\xe1\xff\xff",
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00",
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00" + b"!\xfe" + b"\x01a" * 50_000,
    ],
)
async def test_an_image_of_no_size_is_refused(secret: str, data: bytes):
    content = [{"type": "image_url", "image_url": {"url": f"data:;base64,{base64.b64encode(data).decode()}"}}]
    started_at = time.process_time()
    answer = await refused(await ask(secret, messages=[{"role": "user", "content": content}]))
    assert answer == (400, "invalid", "messages[0].content[0].image_url.url")
    assert time.process_time() - started_at < 2


def test_what_a_few_bytes_can_make_is_not_made():
    asked = b'{"messages":[{"role":"user","content":"x"}],%s}'
    many = b"[" + b"[]," * 1_000_000 + b"[]]"
    for fields in (
        b'"functions":' + many,
        b'"tools":[{"function":{"name":"a","parameters":{"a":' + many + b"}}}]",
        b'"response_format":{"type":"json_schema","json_schema":{"schema":{"a":' + many + b"}}}",
    ):
        started_at, before = time.process_time(), len(gc.get_objects())
        with pytest.raises(BadParameter):
            requests.asked_of(requests.read_request(asked % fields))
        assert len(gc.get_objects()) - before < 10_000
        assert time.process_time() - started_at < 1


@pytest.mark.parametrize(
    "body", ["", "{", "[]", '"hola"', '{"messages": [{"role": "user", "content": "\\ud800"}]}', "[" * 5_000]
)
async def test_what_is_no_json_is_refused(secret: str, body: str):
    headers = {"Authorization": f"Bearer {secret}"}
    answer = await AsyncClient().post("/v1/chat/completions", data=body, content_type=JSON, headers=headers)
    assert (await refused(answer))[0] == 400


@pytest.mark.parametrize(("size", "status"), [(COMPLETION_BYTES // 2, 200), (COMPLETION_BYTES, 400)])
async def test_a_body_has_its_limit(secret: str, runner: Runner, size: int, status: int):
    asked = {"model": "scripted", "messages": [user("say:hola")], "metadata": {"long": "a" * size}}
    request = HttpStream(secret, "chat/completions", asked, root="/v1/")
    request.begin()
    await request.has(b"}")
    assert request.status == status
    if status == 400:
        assert json.loads(request.body)["error"]["code"] == "too_large"


@pytest.mark.parametrize(
    ("code", "status", "named"),
    [
        ("rate_limited", 429, "rate_limit_exceeded"),
        ("timeout", 504, "timeout"),
        ("overloaded", 503, "overloaded"),
        ("bad_request", 400, "bad_request"),
        ("context_exceeded", 400, "context_length_exceeded"),
        ("authentication", 503, "authentication"),
        ("connection", 502, "connection"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_fails_before_its_first_word_has_a_status(
    secret: str, runner: Runner, code: str, status: int, named: str, stream: bool
):
    answer = await ask(secret, f"fail:{code}", stream=stream)
    assert (await refused(answer))[:2] == (status, named)
    comes_back = status in (429, 503) and "x-should-retry" not in answer
    assert answer.get("Retry-After") == ("5" if comes_back else None)


async def test_what_breaks_off_says_so_in_its_stream(secret: str, runner: Runner):
    *chunks, error, done = await streamed(secret, "say:hola fail:overloaded")
    assert chunks[-1]["choices"][0]["delta"]["content"] == "hola "
    assert (error["error"]["code"], error["error"]["type"], done) == ("overloaded", "server_error", "[DONE]")
    assert (await refused(await ask(secret, "say:hola fail:overloaded")))[:2] == (503, "overloaded")


async def test_whoever_has_no_key_is_not_let_in():
    for secret in ("", "ttl_00000000_" + "x" * 43, "eyJ.a.b"):
        status, code, _ = await refused(await ask(secret))
        assert (status, code) == (401, "invalid_api_key")
    answer = await AsyncClient().get("/v1/models")
    assert answer.status_code == 401


async def test_a_session_does_not_ask(carla: User):
    client = AsyncClient()
    await client.aforce_login(carla)
    body = json.dumps({"messages": [user("say:hola")]})
    assert (await client.post("/v1/chat/completions", data=body, content_type=JSON)).status_code == 401
    assert (await client.get("/v1/models")).status_code == 401


@pytest.mark.parametrize("asked", [None, "*", "pt-BR"])
async def test_a_program_that_asks_for_no_language_gets_its_owner_s(secret: str, asked: str | None):
    headers = {"Authorization": f"Bearer {secret}"} | ({"Accept-Language": asked} if asked else {})
    answer = await AsyncClient().get("/v1/models/gpt-2", headers=headers)
    sentence = json.loads(answer.content)["error"]["message"]
    assert sentence.startswith("Esse modelo" if asked == "pt-BR" else "That model")
    answer = await AsyncClient().post("/v1/chat/completions", data="{", content_type=JSON, headers=headers)
    sentence = json.loads(answer.content)["error"]["message"]
    assert sentence == ("Isso não é um JSON válido." if asked == "pt-BR" else "That is not valid JSON.")


async def test_a_key_needs_the_scope_and_the_model(carla: User, runner: Runner):
    usage = await in_thread(key_of, carla, "usage")
    assert (await refused(await ask(usage)))[:2] == (403, "key_not_allowed")
    other = await in_thread(key_of, carla, model_ids=("other",))
    assert (await refused(await ask(other)))[:2] == (403, "model_not_in_key")


async def test_used_up_credits_are_openai_s_error_and_not_tried_again(carla: User):
    await in_thread(change, LanguageModel, "scripted", output_price=20_000_000)
    secret = await in_thread(key_of, carla, monthly_credits=1)
    answer = await ask(secret)
    assert (await refused(answer))[:2] == (429, "insufficient_quota")
    assert answer["x-should-retry"] == "false"
    assert json.loads(answer.content)["error"]["type"] == "insufficient_quota"


@pytest.mark.parametrize("path", ["", "embeddings", "responses", "files/1", "chat/completions/1"])
async def test_an_address_that_is_none_is_told_in_the_same_shape(secret: str, path: str):
    for method in ("get", "post"):
        assert (await refused(await call(secret, path, method=method)))[:2] == (404, "unknown_url")


async def test_another_method_is_refused_in_the_same_shape(secret: str):
    assert (await refused(await call(secret, "chat/completions", method="get")))[:2] == (405, "method_not_allowed")


# --- What is kept, counted and paid -----------------------------------------------------------------------------------


@pytest.mark.stores
async def test_nothing_of_it_is_stored_but_what_it_took(carla: User, secret: str, runner: Runner):
    document = await answered(secret, "say:secreto usage:10/3")
    turn_id = turn_of(document)
    await in_thread(_check_only_money_is_kept, carla, turn_id)
    assert not sync_redis().exists(asked_key(turn_id))
    conversation_id = (await in_thread(access.find_turn, turn_id)).conversation_id
    for key in (f"temporary:turn:{turn_id}", f"temporary:{conversation_id}", f"turn:{turn_id}:log"):
        assert 0 < sync_redis().ttl(key) <= 300


def _check_only_money_is_kept(owner: User, turn_id: UUID) -> None:
    assert not Turn.objects.exists()
    assert not Conversation.objects.exists()
    [record] = UsageRecord.objects.all()
    assert (record.input_tokens, record.output_tokens) == (10, 3)
    assert Reservation.objects.get().pk == turn_id
    [month] = PartMonth.objects.all()
    assert (month.used_micros, month.reserved_micros) == (16, 0)
    assert metering.find_part(turn_id) == str(ApiKey.objects.get().pk)


@pytest.mark.stores
async def test_the_same_idempotency_key_is_the_same_answer(carla: User, secret: str, runner: Runner, ana: User):
    body = {"model": "scripted", "messages": [user("say:hola usage:10/3")]}
    first, second = [await call(secret, "chat/completions", body, Idempotency_Key="one") for _ in range(2)]
    assert json.loads(first.content) == json.loads(second.content)
    both = await asyncio.gather(
        *(call(secret, "chat/completions", body | {"stream": False}, Idempotency_Key="two") for _ in range(2))
    )
    assert len({answer.content for answer in both}) == 1
    other = await call(await in_thread(key_of, ana), "chat/completions", body, Idempotency_Key="one")
    assert json.loads(other.content)["id"] != json.loads(first.content)["id"]
    assert await in_thread(UsageRecord.objects.count) == 3


@pytest.mark.stores
async def test_another_key_of_the_person_reads_nothing_by_an_idempotency_key(carla: User, secret: str, runner: Runner):
    other = await in_thread(key_of, carla)
    body = {"model": "scripted", "messages": [user("say:secreto")]}
    first = await call(secret, "chat/completions", body, Idempotency_Key="1")
    second = await call(other, "chat/completions", body | {"messages": [user("say:hola")]}, Idempotency_Key="1")
    assert json.loads(first.content)["choices"][0]["message"]["content"] == "secreto "
    assert json.loads(second.content)["choices"][0]["message"]["content"] == "hola "


@pytest.mark.stores
async def test_what_is_asked_again_after_it_failed_is_not_kept(secret: str, runner: Runner):
    for text in ("fail:timeout", "say:secreto"):
        body = {"model": "scripted", "messages": [user(text)]}
        assert (await call(secret, "chat/completions", body, Idempotency_Key="1")).status_code == 504
    assert not list(sync_redis().scan_iter("turn:*:asked"))
    assert not await in_thread(Reservation.objects.filter(state="held").exists)


@pytest.mark.stores
async def test_nothing_of_it_is_left_of_an_account_that_is_closed(carla: User, secret: str, redis: Redis):
    def open_one() -> None:
        messages = (Message("user", "say:pregunta-secreta"),)
        open_completion(carla.pk, Completion(turn_id=new_completion_id(), asked=Asked(messages, NO_OPTIONS)))

    async with running():
        await answered(secret, "say:respuesta-secreta")
    await in_thread(open_one)  # nobody waits for it, and no runner is there
    await in_thread(carla.delete)
    await _until(
        lambda: closure.finish_closures() or not re.search("(pregunta|respuesta)-secreta", everything_stored())
    )
    assert not await in_thread(Reservation.objects.filter(state="held").exists)


async def test_nothing_else_reads_it(carla: User, secret: str, runner: Runner):
    turn_id = turn_of(await answered(secret))
    client = AsyncClient()
    await in_thread(client.force_login, carla)
    for path in (f"/api/v1/turns/{turn_id}", f"/api/v1/turns/{turn_id}/events"):
        assert (await client.get(path)).status_code == 404
        assert (await client.get(path, headers={"Authorization": f"Bearer {secret}"})).status_code == 404


@pytest.mark.stores
async def test_a_turn_of_another_kind_is_no_answer_to_it(carla: User):
    conversation = await in_thread(begin_conversation, carla.pk)
    turn = await aask(carla, conversation_id=conversation.pk, turn_id=new_turn_id(conversation.pk))
    asked = Completion(turn_id=turn.pk, asked=Asked((Message("user", "say:hola"),), NO_OPTIONS))
    with pytest.raises(Conflict):
        await in_thread(open_completion, carla.pk, asked)


@pytest.mark.stores
async def test_it_is_listed_for_whoever_erases_it_until_it_is_gone(carla: User, secret: str, runner: Runner):
    listed = f"temporary:completions:of:{carla.pk}"
    asking = asyncio.create_task(answered(secret, "say:hola wait:0.5 say:mundo"))
    [(_pk, until)] = await _until(lambda: sync_redis().zrange(listed, 0, -1, withscores=True))
    assert 3_500 < until - sync_redis().time()[0] <= 3_600
    await asking
    [(_pk, until)] = sync_redis().zrange(listed, 0, -1, withscores=True)
    assert 200 < until - sync_redis().time()[0] <= 300


@pytest.mark.stores
async def test_nothing_is_asked_after_it(carla: User, secret: str, runner: Runner):
    turn = await in_thread(access.find_turn, turn_of(await answered(secret)))
    assert turn is not None
    with pytest.raises(TemporaryGone):
        await aask(carla, conversation_id=turn.conversation_id, turn_id=new_turn_id(turn.conversation_id))
    assert sync_redis().ttl(f"temporary:{turn.conversation_id}") <= 300


@pytest.mark.stores
async def test_whoever_goes_away_stops_the_answer(carla: User, secret: str, runner: Runner):
    for stream in (True, False):
        asked = {"model": "scripted", "stream": stream, "messages": [user("say:hola wait:20 say:mundo")]}
        request = HttpStream(secret, "chat/completions", asked, root="/v1/")
        request.begin()
        held = await _until(lambda: Reservation.objects.filter(state="held").first())
        if stream:
            await request.has(b"hola")
        else:
            await _until(partial(sync_redis().xlen, f"turn:{held.pk}:log"))
        await request.leave()
        await _until(lambda: not Reservation.objects.filter(state="held").exists())
        turn = await in_thread(access.find_turn, held.pk)
        assert (turn.status, turn.answer) == (Turn.Status.STOPPED, "hola ")


@pytest.mark.parametrize("idempotency_key", ["", "one"])
async def test_whoever_goes_away_before_the_first_byte_leaves_no_answer_to_pay(
    secret: str, runner: Runner, idempotency_key: str
):
    """Unless they may come again for it."""
    asked = {"model": "scripted", "stream": True, "messages": [user("say:hola wait:2 say:mundo")]}
    request = HttpStream(secret, "chat/completions", asked, root="/v1/", idempotency_key=idempotency_key)
    request.is_stuck = True  # its headers are not even taken
    request.begin()
    await request.has()
    held = await in_thread(Reservation.objects.get)
    await request.leave()
    await _until(lambda: not Reservation.objects.filter(state="held").exists())
    turn = await in_thread(access.find_turn, held.pk)
    assert (turn.status, turn.answer) == (
        (Turn.Status.COMPLETED, "hola mundo ") if idempotency_key else (Turn.Status.STOPPED, "hola ")
    )


async def test_whoever_goes_away_while_a_stream_is_held_back_stops_it(secret: str, runner: Runner):
    asked = {"model": "scripted", "stream": True, "messages": [user("wait:20 say:mundo")]}
    request = HttpStream(secret, "chat/completions", asked, root="/v1/")
    request.begin()
    held = await _until(lambda: Reservation.objects.filter(state="held").first())
    await _until(partial(sync_redis().exists, f"turn:{held.pk}:lease"))
    await request.leave()
    await _until(lambda: not Reservation.objects.filter(state="held").exists())
    assert (await in_thread(access.find_turn, held.pk)).status == Turn.Status.STOPPED


async def test_no_page_hears_that_it_was_opened(carla: User, secret: str, runner: Runner):
    heard: list[Entry] = []
    await hub().listen(carla.pk, heard.append)
    await answered(secret)
    hub().unlisten(carla.pk, heard.append)
    assert {entry.kind for entry in heard} <= {EntryKind.END}


@pytest.mark.stores
async def test_whoever_asks_again_after_going_away_gets_all_of_the_answer(secret: str, runner: Runner):
    """So do the SDKs when they have waited too long, and with the same Idempotency-Key, if they are given one."""
    asked = {"model": "scripted", "messages": [user("say:hola wait:3 say:mundo")]}
    first, second = (HttpStream(secret, "chat/completions", asked, root="/v1/", idempotency_key="one") for _ in "12")
    first.begin()
    held = await _until(lambda: Reservation.objects.filter(state="held").first())
    await _until(lambda: sync_redis().xlen(f"turn:{held.pk}:log") > 1)
    await first.leave()
    second.begin()
    await second.has(b"}")
    assert (second.status, json.loads(second.body)["choices"][0]["message"]["content"]) == (200, "hola mundo ")
    assert (await in_thread(UsageRecord.objects.get)).reservation_id == held.pk


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.stores
async def test_a_stopped_answer_does_not_pass_for_a_whole_one(secret: str, runner: Runner, stream: bool):
    body = {"model": "scripted", "messages": [user("say:hola wait:20 say:mundo")]}
    first = HttpStream(secret, "chat/completions", body | {"stream": True}, root="/v1/", idempotency_key="one")
    first.begin()
    await first.has(b"hola")
    await first.leave()  # something was sent: nobody can go on there
    await _until(lambda: not Reservation.objects.filter(state="held").exists())
    again = await call(secret, "chat/completions", body | {"stream": stream}, Idempotency_Key="one")
    assert (await refused(again))[:2] == (409, "stopped")
    assert again["x-should-retry"] == "false"


@pytest.mark.stores
async def test_what_broke_off_and_was_paid_is_not_to_be_asked_for_with_the_same_key(secret: str, runner: Runner):
    """The first answer may say to try again; the second says that this would be for nothing."""
    body = {"model": "scripted", "messages": [user("say:hola fail:overloaded")]}
    first, again = [await call(secret, "chat/completions", body, Idempotency_Key="one") for _ in "12"]
    assert [(await refused(one))[:2] for one in (first, again)] == [(503, "overloaded")] * 2
    assert ("x-should-retry" in first, first["Retry-After"]) == (False, "5")
    assert (again["x-should-retry"], "Retry-After" in again) == ("false", False)
    assert (await in_thread(UsageRecord.objects.get)).cost_micros


@pytest.mark.stores
async def test_a_revoked_key_ends_what_it_asked(carla: User, secret: str, runner: Runner):
    asked = {"model": "scripted", "stream": True, "messages": [user("say:hola wait:20 say:mundo")]}
    request = HttpStream(secret, "chat/completions", asked, root="/v1/")
    request.begin()
    await request.has(b"hola")
    await in_thread(lambda: revoke_key(ApiKey.objects.get(), peer=""))
    await request.has(b"access_ended")
    await _until(lambda: not Reservation.objects.filter(state="held").exists())
    assert (await ask(secret)).status_code == 401


@pytest.mark.stores
async def test_a_stream_that_is_slow_to_begin_begins_all_the_same(
    secret: str, runner: Runner, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(views, "HOLD_SECONDS", 0.1)
    *_chunks, error, _done = await streamed(secret, "wait:0.5 fail:overloaded")
    assert error["error"]["code"] == "overloaded"
    assert (await streamed(secret, "wait:0.5 say:hola"))[-2]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.stores
async def test_what_redis_has_lost_is_told(secret: str, queue_length: Callable[[], int], redis: Any, settings: Any):
    request = asyncio.create_task(ask(secret))
    held = await _until(lambda: Reservation.objects.filter(state="held").first())
    await _until(queue_length)
    sync_redis().delete(asked_key(held.pk))
    async with running():
        assert (await refused(await request))[:2] == (503, "asked_lost")
    assert not await in_thread(UsageRecord.objects.exists)


@pytest.mark.stores
async def test_a_request_that_died_before_its_turn_costs_nothing(
    carla: User, secret: str, monkeypatch: pytest.MonkeyPatch
):
    def die(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("chat.turns.completing.add_completion", die)
    assert (await ask(secret)).status_code == 500
    reservation = await in_thread(Reservation.objects.get)
    assert reservation.state == "held"
    later = reservation.created_at - HELD_GRACE * 2
    await in_thread(Reservation.objects.update, created_at=later)
    await in_thread(settle_unsettled)
    assert (await in_thread(Reservation.objects.get)).state == "released"


@pytest.mark.stores
async def test_programs_of_one_person_ask_so_much_at_once(secret: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("chat.turns.asked.MAX_BYTES", 100)
    assert (await refused(await ask(secret, "say:" + "a" * 200)))[:2] == (429, "rate_limit_exceeded")
    assert (await in_thread(Reservation.objects.get)).state == "released"
    assert not list(sync_redis().scan_iter("turn:*:asked"))


def test_what_the_programs_of_one_person_ask_is_added_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("chat.turns.asked.MAX_BYTES", 500)
    asked, first, second = Asked((Message("user", "a" * 200),), NO_OPTIONS), new_completion_id(), new_completion_id()
    keep_asked(1, first, asked)
    keep_asked(1, first, asked)
    with pytest.raises(TooManyAtOnce):
        keep_asked(1, second, asked)
    keep_asked(2, second, asked)
    forget_asked(first)
    keep_asked(1, new_completion_id(), asked)


@pytest.mark.stores
async def test_a_plan_limits_what_one_message_has(ana: User, runner: Runner):
    await in_thread(change, Plan, "free", question_characters=20, has_api=True)
    secret = await in_thread(key_of, ana)
    assert (await refused(await ask(secret, "say:" + "a" * 30)))[:2] == (400, "context_length_exceeded")
    said = [user("hola"), {"role": "assistant", "content": "a" * 30}, user("say:hola")]
    assert await answered(secret, messages=said)  # what a model said is no question


async def _until(found: Callable[[], Any]) -> Any:
    async with asyncio.timeout(30):
        while not (value := await in_thread(found)):
            await asyncio.sleep(0.05)
    return value
