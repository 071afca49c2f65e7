"""Answers that were given before: who gets them, what they cost, and when they are forgotten."""

import asyncio
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import msgspec
import pytest
from django.test import Client
from django.utils import translation
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings
from redis.asyncio import Redis

from accounts.models import User
from billing.models import Reservation
from chat.attachments.binding import Attached
from chat.llm.catalog import Candidate
from chat.llm.providers.base import File, Message, ModelRequest, Provider
from chat.models import LanguageModel
from chat.shown.fragments import turn_html
from chat.turns import answer_cache, ending, log, rescue
from chat.turns.answer_cache import cache_keys, decode_answer, encode_answer, question_digest
from chat.turns.log import Entry, EntryKind, encode_begun
from chat.turns.rescue import outcome_from_log, read_remains
from chat.turns.runner import Runner
from chat.turns.stopping import stop_turn
from core.redis_clients import sync_redis
from core.threads import in_thread
from history import access, deletion
from history.models import Conversation, Turn, new_id
from testbed.provider import FakeProvider, expected_text
from tests.chat.asking import aask, closed, eventually, finished, period_of, record_of, reservation_of, saved
from tests.chat.conftest import Offer
from tests.chat.live import page_of

MODEL = "fake-60t-1ms-r10"
SHORT = "fake-20t-0ms"


@pytest.fixture(autouse=True)
def switched_on(settings: Settings) -> None:
    settings.CACHE_TTL = 600


@pytest.fixture
async def model(offer: Offer) -> str:
    for name in (MODEL, SHORT):
        await in_thread(offer, name)
    return MODEL


async def answered(user: User, text: str = "¿Qué es un árbol?", **fields: Any) -> Turn:
    return await closed(await aask(user, text, **{"model": MODEL, **fields}))


def kept_of(user: User) -> int:
    return int(sync_redis().hlen(cache_keys(user.pk)[0]))


async def kept(user: User) -> None:
    """Wait until the first answer is in the cache: its turn is over a moment earlier."""

    async def look() -> bool:
        return bool(await in_thread(kept_of, user))

    await eventually(look)


# --- A hit ------------------------------------------------------------------------------------------------------------


async def test_the_same_question_is_not_asked_twice(
    redis: Redis, runner: Runner, carla: User, model: str, provider: FakeProvider
):
    first = await answered(carla)
    await kept(carla)
    second = await answered(carla)
    assert len(provider.requests) == 1
    assert (first.is_from_cache, second.is_from_cache) == (False, True)
    assert (second.status, second.finish_reason, second.error) == ("completed", "stop", "")
    assert (second.answer, second.reasoning) == (first.answer, first.reasoning)
    assert (second.model, second.provider, second.instead_of) == (model, "compatible", "")
    assert second.created_at < second.started_at < second.first_token_at < second.completed_at


async def test_an_answer_from_the_cache_is_free_and_used_nothing(redis: Redis, runner: Runner, carla: User, model: str):
    first = await answered(carla)
    await kept(carla)
    second = await answered(carla)
    assert second.cost_micros == 0
    assert (second.input_tokens, second.output_tokens, second.reasoning_tokens, second.usage_source) == (0, 0, 0, "")
    assert (await in_thread(reservation_of, second)).state == Reservation.State.RELEASED
    assert await in_thread(record_of, second) is None
    period = await in_thread(period_of, carla)
    assert (period.used_micros, period.reserved_micros, period.account.holds) == (first.cost_micros, 0, 0)


async def test_it_is_streamed_in_parts(redis: Redis, runner: Runner, carla: User, model: str):
    first = await answered(carla)
    await kept(carla)
    async with page_of(carla) as page:
        await page.start("¿Qué es un árbol?", model=MODEL)
        end = await page.ended()
    parts = page.of("turn.delta")
    assert "".join(event["text"] for event in parts) == first.answer
    assert "".join(event["text"] for event in page.of("turn.reasoning")) == first.reasoning
    assert 3 <= len(parts) <= answer_cache.MAX_PARTS
    assert [event["at"] for event in parts] == sorted(event["at"] for event in parts)
    assert (end["type"], end["usage"], end["cost_micros"]) == ("turn.completed", None, 0)
    assert end["from_cache"] is True
    assert "From cache" in end["html"]


async def test_the_page_says_so_and_offers_to_ask_again(redis: Redis, runner: Runner, carla: User, model: str):
    first = await answered(carla)
    await kept(carla)
    second = await answered(carla)

    def html(turn: Turn) -> str:
        with translation.override("en"):
            return turn_html(turn)

    assert "From cache" not in await in_thread(html, first)
    shown = await in_thread(html, second)
    assert "From cache" in shown
    assert "Credits: 0" in shown
    assert "data-again" in shown


async def test_the_api_says_so(redis: Redis, runner: Runner, carla: User, model: str):
    turns = [await answered(carla)]
    await kept(carla)
    turns.append(await answered(carla))

    def read(turn: Turn) -> dict[str, Any]:
        client = Client()
        client.force_login(carla)
        found: dict[str, Any] = client.get(f"/api/v1/turns/{turn.pk}").json()
        return found

    first, second = [await in_thread(read, turn) for turn in turns]
    assert first["from_cache"] is False
    assert (second["from_cache"], second["cost_micros"], second["usage"]) == (True, 0, None)


async def test_a_long_answer_is_kept_compressed_and_comes_back_whole(
    redis: Redis, runner: Runner, carla: User, offer: Offer, provider: FakeProvider
):
    name = "fake-900t-0ms-unicode"
    await in_thread(offer, name)
    first = await answered(carla, model=name)
    await kept(carla)
    (value,) = await redis.hvals(cache_keys(carla.pk)[0])
    assert len(value) < len(first.answer.encode())
    second = await answered(carla, model=name)
    assert (second.is_from_cache, second.answer) == (True, expected_text(name))


async def test_a_follow_up_is_found_by_the_whole_path(
    redis: Redis, runner: Runner, carla: User, model: str, provider: FakeProvider
):
    for _ in range(2):
        first = await answered(carla, "uno", model=SHORT)
        await kept(carla)
        second = await answered(carla, "dos", model=SHORT, conversation_id=first.conversation_id)
    assert second.is_from_cache
    assert len(provider.requests) == 2
    alone = await answered(carla, "dos", model=SHORT)
    assert not alone.is_from_cache


# --- No hit -----------------------------------------------------------------------------------------------------------


async def test_another_person_never_gets_it(
    redis: Redis, runner: Runner, carla: User, bo: User, model: str, provider: FakeProvider
):
    await answered(carla)
    await kept(carla)
    assert not (await answered(bo)).is_from_cache
    assert len(provider.requests) == 2


async def test_asking_again_asks(redis: Redis, runner: Runner, carla: User, model: str, provider: FakeProvider):
    first = await answered(carla)
    await kept(carla)
    again = await answered(carla, conversation_id=first.conversation_id, parent_id=None)
    assert not again.is_from_cache
    follow = await answered(carla, "¿Y un bosque?", conversation_id=first.conversation_id, parent_id=again.pk)
    once_more = await answered(carla, "¿Y un bosque?", conversation_id=first.conversation_id, parent_id=again.pk)
    assert not follow.is_from_cache
    assert not once_more.is_from_cache
    assert len(provider.requests) == 4


async def test_what_was_asked_again_takes_the_place_of_what_was_kept(
    redis: Redis, runner: Runner, carla: User, model: str, provider: FakeProvider
):
    first = await answered(carla)
    await kept(carla)
    (before,) = await redis.hvals(cache_keys(carla.pk)[0])
    await answered(carla, conversation_id=first.conversation_id, parent_id=None)

    async def look() -> bool:
        return await redis.hvals(cache_keys(carla.pk)[0]) != [before]

    await eventually(look)
    assert await redis.hlen(cache_keys(carla.pk)[0]) == 1


async def test_a_question_with_something_attached_is_asked(
    redis: Redis, runner: Runner, carla: User, model: str, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
):
    await answered(carla)
    await kept(carla)
    files = (Attached(new_id(), "text", "a.txt", "text/plain", 3),)
    monkeypatch.setattr("chat.turns.opening.get_usable_files", lambda *_, **__: files)
    monkeypatch.setattr("chat.turns.opening.bind_files", lambda *_, **__: None)
    assert not (await answered(carla)).is_from_cache
    assert len(provider.requests) == 2


async def test_nothing_is_kept_or_found_when_it_is_switched_off(
    redis: Redis, runner: Runner, carla: User, model: str, settings: Settings, provider: FakeProvider
):
    settings.CACHE_TTL = 0
    await answered(carla)
    await answered(carla)
    assert len(provider.requests) == 2
    assert not await redis.exists(cache_keys(carla.pk)[0])


async def test_an_answer_that_is_too_old_is_not_given(
    redis: Redis, runner: Runner, carla: User, model: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    await answered(carla)
    await kept(carla)
    assert 0 < await redis.ttl(cache_keys(carla.pk)[0]) <= 600
    now = answer_cache.time.time()
    monkeypatch.setattr(answer_cache.time, "time", lambda: now + 601)
    assert not (await answered(carla)).is_from_cache


@pytest.mark.parametrize(
    "name",
    [
        "fake-60t-1ms-length",
        "fake-60t-1ms-cut30",
        "fake-60t-1ms-error30",
        "fake-60t-1ms-filter",
        "fake-60t-1ms-nofinish",
        "status-400",
    ],
)
async def test_only_whole_answers_are_kept(
    redis: Redis, runner: Runner, carla: User, offer: Offer, provider: FakeProvider, name: str
):
    await in_thread(offer, name)
    turn = await answered(carla, model=name)
    assert (turn.status, turn.finish_reason) != ("completed", "stop")
    await answered(carla, "something else", model=name)
    assert not await redis.exists(cache_keys(carla.pk)[0])


async def test_a_stopped_answer_is_not_kept(redis: Redis, runner: Runner, carla: User, offer: Offer):
    await in_thread(offer, "fake-500t-20ms")
    turn = await aask(carla, "largo", model="fake-500t-20ms")
    await eventually(lambda: redis.exists(log.log_key(turn.pk)))
    await stop_turn(turn)
    assert (await closed(turn)).status == "stopped"
    assert not await redis.exists(cache_keys(carla.pk)[0])


async def test_an_answer_that_is_too_long_is_not_kept(
    redis: Redis, runner: Runner, carla: User, model: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(answer_cache, "MAX_CACHED_BYTES", 100)
    await answered(carla)
    assert not (await answered(carla)).is_from_cache


async def test_a_person_has_only_so_many(
    redis: Redis, runner: Runner, carla: User, model: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(answer_cache, "MAX_ANSWERS", 2)
    for number in range(4):
        await answered(carla, f"pregunta {number}", model=SHORT)
    await answered(carla, "otra", model=SHORT)
    assert 1 <= await redis.hlen(cache_keys(carla.pk)[0]) <= 2


async def spoil_value(redis: Redis, key: str) -> None:
    for field in await redis.hkeys(key):
        await redis.hset(key, field, b"\1nonsense")


async def spoil_shape(redis: Redis, key: str) -> None:
    for field in await redis.hkeys(key):
        await redis.hset(key, field, b"\0" + msgspec.msgpack.encode([1.0, "m", 5]))


async def spoil_type(redis: Redis, key: str) -> None:
    await redis.delete(key)
    await redis.set(key, b"no hash at all")


@pytest.mark.parametrize("spoil", [spoil_value, spoil_shape, spoil_type])
async def test_what_cannot_be_read_is_not_there_and_replaced(
    redis: Redis, runner: Runner, carla: User, model: str, provider: FakeProvider, spoil: Callable[..., Any]
):
    await answered(carla)
    await kept(carla)
    await spoil(redis, cache_keys(carla.pk)[0])
    assert not (await answered(carla)).is_from_cache
    assert (await answered(carla)).is_from_cache or spoil is spoil_type  # which is dropped first
    await eventually(lambda: in_thread(kept_of, carla))
    assert (await answered(carla)).is_from_cache


async def test_a_model_that_stands_in_is_neither_looked_up_nor_kept(
    redis: Redis, runner: Runner, carla: User, offer: Offer, provider: FakeProvider
):
    """What somebody else said while the first was away is not what asking now would give."""

    def offer_two() -> None:
        LanguageModel.objects.update(enabled=False)
        for position, name in enumerate(("fake-9t-0ms-flaky2", "fake-3t-0ms"), 1):
            offer(name, position=position)

    await in_thread(offer_two)
    first = await answered(carla, model="auto")
    second = await answered(carla, model="auto")
    assert (first.instead_of, first.is_from_cache) == ("fake-9t-0ms-flaky2", False)
    assert (second.model, second.is_from_cache) == ("fake-9t-0ms-flaky2", False)
    await kept(carla)
    assert (await answered(carla, model="auto")).is_from_cache


# --- Forgetting -------------------------------------------------------------------------------------------------------


async def test_deleting_a_conversation_forgets(
    redis: Redis, runner: Runner, carla: User, model: str, provider: FakeProvider
):
    turn = await answered(carla)
    await kept(carla)
    conversation = await in_thread(access.access_conversation, carla.pk, turn.conversation_id)
    await in_thread(deletion.delete_conversation, conversation)
    assert not await redis.exists(cache_keys(carla.pk)[0])
    assert not (await answered(carla)).is_from_cache


async def test_what_is_being_written_while_it_is_forgotten_is_not_kept(
    redis: Redis, runner: Runner, carla: User, offer: Offer
):
    await in_thread(offer, "fake-40t-20ms")
    turn = await aask(carla, model="fake-40t-20ms")
    await eventually(lambda: redis.exists(log.log_key(turn.pk)))
    await in_thread(answer_cache.forget_answers, carla.pk)
    assert (await closed(turn)).status == "completed"
    await answered(carla, "something else", model="fake-40t-20ms")
    await kept(carla)
    assert await redis.hlen(cache_keys(carla.pk)[0]) == 1  # of the later one


@pytest.mark.parametrize("end", ["suspended", "erased"])
async def test_a_person_who_goes_is_forgotten(
    redis: Redis, runner: Runner, carla: User, bo: User, model: str, end: str
):
    for user in (carla, bo):
        await answered(user)
        await kept(user)
    key = cache_keys(carla.pk)[0]

    def leave() -> None:
        if end == "suspended":
            carla.is_active = False
            carla.save()
        else:
            carla.delete()

    await in_thread(leave)
    assert not await redis.exists(key)
    assert await in_thread(kept_of, bo) == 1


def away() -> Any:
    raise OSError


def test_what_was_not_forgotten_while_redis_was_away_is_forgotten_by_the_sweep(
    carla: User, monkeypatch: pytest.MonkeyPatch
):
    turn = finished(carla)
    conversation = access.access_conversation(carla.pk, turn.conversation_id)
    key = cache_keys(carla.pk)[0]
    sync_redis().hset(key, "field", "answer")
    with monkeypatch.context() as patch:
        patch.setattr(answer_cache, "sync_redis", away)
        deletion.delete_conversation(conversation)
    assert sync_redis().exists(key)
    deletion.finish_deletions()
    assert not sync_redis().exists(key)
    assert not Conversation.objects.exists()


def test_redis_keeps_nobody_from_suspending(carla: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(answer_cache, "sync_redis", away)
    carla.is_active = False
    carla.save()


# --- Broken off -------------------------------------------------------------------------------------------------------


async def test_stopping_a_replay_costs_nothing(
    redis: Redis, runner: Runner, carla: User, offer: Offer, monkeypatch: pytest.MonkeyPatch
):
    name = "fake-900t-0ms"
    await in_thread(offer, name)
    await answered(carla, model=name)
    await kept(carla)
    monkeypatch.setattr(answer_cache, "MAX_PARTS", 1_000)
    turn = await aask(carla, "¿Qué es un árbol?", model=name)

    async def begun() -> str:
        return log.replay(await log.read_log(redis, turn.pk)).text

    await eventually(begun)
    await stop_turn(await in_thread(saved, turn))
    turn = await closed(turn)
    assert (turn.status, turn.is_from_cache, turn.cost_micros) == ("stopped", True, 0)
    assert 0 < len(turn.answer) < len(expected_text(name))
    assert (await in_thread(reservation_of, turn)).state == Reservation.State.RELEASED


async def test_a_runner_that_dies_while_replaying_leaves_a_free_answer(redis: Redis, carla: User, model: str):
    turn = await aask(carla)
    await in_thread(claim, turn)
    found = await in_thread(LanguageModel.objects.get, key=MODEL)
    entries = [
        Entry(turn.pk.bytes, EntryKind.BEGUN, 1, 0, encode_begun(found, is_from_cache=True)),
        Entry(turn.pk.bytes, EntryKind.TEXT, 1, 0, "Un árbol es"),
    ]
    for entry in entries:
        await redis.xadd(log.log_key(turn.pk), {"e": log.encode_entry(entry)})
    words = await in_thread(outcome_from_log, turn, await read_remains(redis, turn.pk))
    assert words is not None
    assert await rescue.close_without_runner(redis, turn, words, closer="another")
    turn = await in_thread(saved, turn)
    assert (turn.status, turn.answer, turn.is_from_cache) == ("interrupted", "Un árbol es", True)
    assert (turn.cost_micros, turn.input_tokens, turn.output_tokens) == (0, 0, 0)
    assert (await in_thread(reservation_of, turn)).state == Reservation.State.RELEASED
    assert await in_thread(record_of, turn) is None


def claim(turn: Turn) -> None:
    from history import progress

    assert progress.claim(turn)


async def test_an_end_that_is_announced_twice_keeps_once(redis: Redis, runner: Runner, carla: User, model: str):
    turn = await answered(carla)
    await kept(carla)
    await ending.announce_end(redis, turn)
    assert await in_thread(kept_of, carla) == 1


# --- Keys -------------------------------------------------------------------------------------------------------------

PROVIDER = Provider(slug="openai", name="OpenAI", adapter="openai_chat", base_url="https://api", api_key="sk-1")
REQUEST = ModelRequest(
    provider=PROVIDER, model="m", messages=(Message("system", "s"), Message("user", "u")), max_output=100
)
IMAGE = File("image", "image/png", "a.png", b"\x89PNG")


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, model="n"),
        replace(REQUEST, max_output=101),
        replace(REQUEST, max_tokens_parameter="max_completion_tokens"),
        replace(REQUEST, reasons=True),
        replace(REQUEST, effort="high"),
        replace(REQUEST, provider=replace(PROVIDER, base_url="https://other")),
        replace(REQUEST, provider=replace(PROVIDER, slug="compatible")),
        replace(REQUEST, messages=(Message("user", "s"), Message("user", "u"))),
        replace(REQUEST, messages=(Message("system", "su"), Message("user", ""))),
        replace(REQUEST, messages=(Message("system", "s"), Message("user", "u", (IMAGE,)))),
        replace(REQUEST, messages=(Message("system", "s"), Message("user", "u", (replace(IMAGE, data=b"x"),)))),
    ],
)
def test_whatever_is_sent_is_in_the_key(other: ModelRequest):
    assert question_digest(1, other) != question_digest(1, REQUEST)


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, cache_key="another conversation", end_user="x"),
        replace(REQUEST, provider=replace(PROVIDER, api_key="sk-2")),
    ],
)
def test_what_cannot_change_the_answer_is_not(other: ModelRequest):
    assert question_digest(1, other) == question_digest(1, REQUEST)


def test_letters_are_the_same_however_they_are_composed():
    one, two = (replace(REQUEST, messages=(Message("user", text),)) for text in ("árbol", "a\u0301rbol"))
    assert question_digest(1, one) == question_digest(1, two)


def test_the_key_is_a_secret_of_the_house(settings: Settings):
    before = question_digest(1, REQUEST)
    settings.SECRET_KEY = "another secret, quite as long as the one before it"
    assert question_digest(1, REQUEST) != before


def test_every_field_of_a_request_was_thought_of():
    """A new field is in every key. One that cannot change an answer belongs to those that are left out."""
    known = {field.name for kind in (ModelRequest, Provider) for field in fields(kind)}
    assert known >= answer_cache.NOT_IN_DIGEST


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
messages = st.lists(
    st.builds(
        Message,
        st.sampled_from(["system", "user", "assistant"]),
        texts,
        st.lists(
            st.builds(File, st.sampled_from(["image", "pdf"]), texts, texts, st.binary(max_size=4)), max_size=2
        ).map(tuple),
    ),
    max_size=3,
).map(tuple)
requests = st.builds(
    ModelRequest,
    provider=st.builds(Provider, slug=texts, name=st.just("n"), adapter=texts, base_url=texts),
    model=texts,
    messages=messages,
    max_output=st.integers(1, 3),
    reasons=st.booleans(),
    effort=texts,
)


def normalised(request: ModelRequest) -> Any:
    import unicodedata

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return unicodedata.normalize("NFC", value)
        if isinstance(value, list):
            return [walk(part) for part in value]
        if isinstance(value, dict):
            return {name: walk(part) for name, part in value.items() if name != "pace"}
        return value

    from dataclasses import asdict

    return walk(
        msgspec.to_builtins(
            {**asdict(request), "note_life": None, "note_sent": None, "pace": None}, builtin_types=(bytes,)
        )
    )


@given(st.integers(0, 2), requests, st.integers(0, 2), requests)
def test_different_prompts_never_share_a_key(one: int, first: ModelRequest, two: int, second: ModelRequest):
    is_same = (one, normalised(first)) == (two, normalised(second))
    assert (question_digest(one, first) == question_digest(two, second)) == is_same


@given(requests, st.data())
def test_text_that_moves_to_another_place_is_another_key(request: ModelRequest, data: st.DataObject):
    """The same characters, cut elsewhere: a key that only joined them would be the same."""
    text = data.draw(st.text("ab", min_size=2, max_size=6))
    at, other = data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=2, unique=True))
    keys = {
        question_digest(1, replace(request, messages=(Message("user", text[:cut]), Message("assistant", text[cut:]))))
        for cut in (at, other)
    }
    assert len(keys) == 2


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_kept_comes_back(answer: str, reasoning: str):
    turn = Turn(pk=new_id(), answer=answer, reasoning=reasoning, model="m", input_tokens=7, output_tokens=9)
    value = encode_answer(turn)
    found = decode_answer(value)
    assert found is not None
    assert (found.text, found.reasoning, found.model) == (answer, reasoning, "m")
    assert (found.input_tokens, found.output_tokens) == (7, 9)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_harm(value: bytes):
    found = decode_answer(value)
    assert found is None or found.text


async def test_parts_add_up(catalog: None):
    model = await in_thread(LanguageModel.objects.get, key="scripted")
    beats = 0

    async def pace() -> None:
        nonlocal beats
        beats += 1
        await asyncio.sleep(0)

    kept = answer_cache.CachedAnswer(0.0, "m", "á" * 1_999, "r" * 301, 5, 1, 1)
    events = [event async for event in answer_cache.stream_cached(kept, Candidate(model, PROVIDER), pace)]
    deltas = events[1:-1]
    assert "".join(event.text for event in deltas) == kept.text
    assert "".join(event.reasoning for event in deltas) == kept.reasoning
    assert beats == len(deltas) - 1 <= answer_cache.MAX_PARTS + 1
