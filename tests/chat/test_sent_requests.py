"""What was sent to a provider is paid once: by the person who stopped it, else by the site, in the provider's day."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
from django.utils import translation
from pytest_django import Settings
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from rest_framework.test import APIClient

from accounts.models import User
from billing import metering
from billing.models import Reservation, SpendingEntry, UsageRecord
from billing.spending import spending_today
from chat.llm.providers import ADAPTERS, sdk
from chat.llm.providers.base import Message, ModelRequest, Provider
from chat.llm.providers.errors import ProviderError
from chat.llm.providers.http import close_session
from chat.models import LanguageModel
from chat.shown.fragments import turn_html
from chat.shown.sentences import CHARGED_FOR_STOPPED, CHARGED_FOR_STOPPED_THOUGHT, CHARGED_NOTHING
from chat.turns import closing, leases, limits, sweeping
from chat.turns import runner as runner_module
from chat.turns.opening import open_turn
from chat.turns.runner import Runner
from chat.turns.sent_requests import MIN_THOUGHT_TOKENS, read_sent, sent_key
from chat.turns.stopping import stop_turn
from chat.turns.sweeping import repair_turns, settle_unsettled
from core.threads import in_thread
from history.models import Turn
from testbed.provider import FakeProvider
from tests.chat.asking import (
    aask,
    closed,
    eventually,
    is_held,
    period_of,
    question,
    record_of,
    reservation_of,
    saved,
    until,
)
from tests.chat.conftest import Offer, running
from tests.chat.dying import Died, die, grow_old, kill
from tests.chat.wire import answering

pytestmark = [pytest.mark.stores, pytest.mark.django_db(databases=["default", "history"], transaction=True)]

LONG = "¿Por qué? " * 300


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runners find the turns of dead ones at once."""
    monkeypatch.setattr(leases, "LEASE_MS", 500)
    monkeypatch.setattr(runner_module, "RECLAIM_SECONDS", 0.05)


@pytest.fixture
async def hang(offer: Offer) -> str:
    """A model that takes the prompt and says nothing. It costs one micro a token of input."""
    model: LanguageModel = await in_thread(offer, "hang", max_output=500)
    return model.key


def change(key: str, **fields: Any) -> None:
    """Change a model as an operator does, so that every process knows."""
    model = LanguageModel.objects.get(key=key)
    for name, value in fields.items():
        setattr(model, name, value)
    model.save()


async def has_prompt(provider: FakeProvider, redis: Redis, turn: Turn, *, requests: int = 1) -> None:
    """Wait until the provider has so many requests, and Redis knows of the one for this turn."""
    await until(lambda: len(provider.requests) == requests)
    await eventually(lambda: redis.exists(sent_key(turn.pk)))


async def asked(user: User, model: str, provider: FakeProvider, redis: Redis, text: str = LONG) -> Turn:
    """Ask, and wait until the provider has the prompt."""
    turn = await aask(user, text, model=model)
    await has_prompt(provider, redis, turn)
    return turn


def taken(supplier: str = "compatible") -> int:
    """What the supplier takes today; nothing is held of it any more."""
    spent = spending_today((supplier,))[supplier]
    assert spent.reserved_micros == 0
    return spent.used_micros


async def used(user: User) -> int:
    period = await in_thread(period_of, user)
    assert (period.reserved_micros, period.account.holds) == (0, 0)
    return period.used_micros


# --- The person stops -------------------------------------------------------------------------------------------------


async def test_a_stop_before_the_first_word_pays_for_the_prompt_that_was_sent(
    redis: Redis, runner: Runner, ana: User, hang: str, provider: FakeProvider
):
    turn = await asked(ana, hang, provider, redis)
    await stop_turn(turn)
    stopped = await closed(turn)
    assert (stopped.status, stopped.answer, stopped.model) == ("stopped", "", hang)
    assert (stopped.cost_micros, stopped.output_tokens, stopped.usage_source) == (turn.input_tokens, 0, "estimated")
    assert turn.input_tokens > 800
    assert await used(ana) == turn.input_tokens < turn.max_cost_micros
    assert await in_thread(taken) == turn.input_tokens
    assert stopped.unanswered is None
    assert not await redis.exists(sent_key(turn.pk))


async def test_a_stop_is_paid_once_however_often_it_is_repeated(
    redis: Redis, runner: Runner, ana: User, hang: str, provider: FakeProvider
):
    turn = await asked(ana, hang, provider, redis)
    await asyncio.gather(*(stop_turn(turn) for _ in range(5)))
    stopped = await closed(turn)
    for _ in range(2):
        await stop_turn(await in_thread(saved, turn))
        await in_thread(closing.settle_turn, stopped, stopped)
    assert await in_thread(UsageRecord.objects.count) == 1
    assert await used(ana) == turn.input_tokens


async def test_a_stop_before_the_request_was_sent_is_free(
    redis: Redis, runner: Runner, ana: User, hang: str, settings: Settings
):
    """The connection is there, but its TLS handshake never ends."""
    connected = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    settings.OPENAI_COMPATIBLE_BASE_URL = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    turn = await aask(ana, LONG, model=hang)
    await connected.wait()
    await stop_turn(turn)
    stopped = await closed(turn)
    server.close()
    assert (stopped.status, stopped.cost_micros, stopped.unanswered) == ("stopped", None, None)
    assert (await used(ana), await in_thread(taken)) == (0, 0)


@pytest.mark.parametrize(("effort", "thought"), [("high", True), ("", True), ("none", False)])
async def test_a_model_that_thinks_in_silence_is_paid_a_little_thought(
    redis: Redis, runner: Runner, ana: User, offer: Offer, provider: FakeProvider, effort: str, thought: bool
):
    model = await in_thread(offer, "hang", reasons=True, efforts="none high")
    turn = (await in_thread(open_turn, ana.pk, question(LONG, model=model.key, effort=effort))).turn
    await has_prompt(provider, redis, turn)
    await stop_turn(turn)
    stopped = await closed(turn)
    tokens = MIN_THOUGHT_TOKENS if thought else 0
    assert (stopped.output_tokens, stopped.reasoning_tokens) == (tokens, tokens)
    assert stopped.cost_micros == turn.input_tokens + 2 * tokens == await in_thread(taken)


async def test_thought_that_was_shown_is_paid_as_it_was_where_it_is_more(redis: Redis, runner: Runner, ana: User):
    await in_thread(change, "scripted", reasons=True)
    turn = await aask(ana, f"think:{'x' * 3_000} wait:9")

    async def is_thinking() -> bool:
        return bool(await redis.xlen(f"turn:{turn.pk}:log"))

    await eventually(is_thinking)
    await stop_turn(turn)
    assert (await closed(turn)).reasoning_tokens > 700 > MIN_THOUGHT_TOKENS


async def test_of_several_that_were_asked_the_person_pays_the_one_that_was_stopped(
    redis: Redis, runner: Runner, carla: User, offer: Offer, provider: FakeProvider
):
    """The first broke off its stream, which it may charge: that is the site's to pay."""
    await in_thread(change, "scripted", enabled=False)
    await in_thread(offer, "fake-5t-0ms-cut0", position=1, input_price=900_000)
    await in_thread(offer, "hang", position=2)
    turn = await aask(carla, LONG, model="auto")
    await until(lambda: [one["model"] for one in provider.requests][-1:] == ["hang"])
    failed = len(provider.requests) - 1
    await eventually(lambda: _noted(redis, turn, failed + 1))
    await stop_turn(turn)
    stopped = await closed(turn)
    assert (stopped.status, stopped.model, stopped.cost_micros) == ("stopped", "hang", turn.input_tokens)
    per_failure = -(-turn.input_tokens * 9 // 10)
    assert await used(carla) == turn.input_tokens
    assert await in_thread(taken) == turn.input_tokens + failed * per_failure


async def _noted(redis: Redis, turn: Turn, number: int) -> bool:
    return len(await read_sent(redis, turn.pk)) == number


async def test_the_charge_never_exceeds_the_reservation(
    redis: Redis, runner: Runner, ana: User, hang: str, provider: FakeProvider
):
    turn = await asked(ana, hang, provider, redis)
    await in_thread(change, hang, input_price=50_000_000)
    await in_thread(Turn.objects.filter(pk=turn.pk).update, input_tokens=0)
    await stop_turn(turn)
    stopped = await closed(turn)
    assert 0 < stopped.cost_micros <= turn.max_cost_micros
    assert (await in_thread(record_of, turn)).above_because is None


# --- Nobody pays, but the provider may --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "is_billed"),
    [
        ("hang", True),
        ("fake-0t-0ms-nofinish", True),
        ("fake-5t-0ms-cut0", True),
        ("fake-5t-0ms-rubbish0", True),
        ("fake-5t-0ms-error0", True),
        ("status-500", False),
        ("status-429", False),
        ("status-400", False),
        ("status-401", False),
        ("status-404", False),
        ("status-504", True),
        ("quota", False),
        ("context", False),
        ("html-502", False),
    ],
)
async def test_a_failure_is_free_and_in_the_providers_day_where_the_request_was_accepted(
    redis: Redis,
    runner: Runner,
    ana: User,
    offer: Offer,
    provider: FakeProvider,
    settings: Settings,
    script: str,
    is_billed: bool,
):
    settings.FIRST_TOKEN_SECONDS = 0.2 if script == "hang" else 10
    turn = await aask(ana, LONG, model=(await in_thread(offer, script)).key)
    failed = await closed(turn)
    requests = len(provider.requests)
    assert (failed.status, failed.cost_micros, await used(ana)) == ("failed", None, 0)
    assert (await in_thread(reservation_of, turn)).state == Reservation.State.RELEASED
    assert requests >= 1
    assert await in_thread(taken) == (requests * turn.input_tokens if is_billed else 0)


async def test_a_provider_that_is_not_there_takes_nothing(
    redis: Redis, runner: Runner, ana: User, hang: str, settings: Settings
):
    settings.OPENAI_COMPATIBLE_BASE_URL = "http://127.0.0.1:1/v1"
    failed = await closed(await aask(ana, LONG, model=hang))
    assert (failed.error, failed.unanswered, await in_thread(taken)) == ("connection", None, 0)


async def test_an_answer_pays_for_itself_and_the_day_has_the_requests_before_it(
    redis: Redis, runner: Runner, carla: User, offer: Offer, provider: FakeProvider
):
    await in_thread(change, "scripted", enabled=False)
    await in_thread(offer, "fake-5t-0ms-rubbish0", position=1, input_price=900_000)
    await in_thread(offer, "fake-3t-0ms", position=2)
    turn = await aask(carla, LONG, model="auto")
    answered = await closed(turn)
    assert (answered.status, answered.model) == ("completed", "fake-3t-0ms")
    assert await used(carla) == answered.cost_micros > 0
    failed = len(provider.requests) - 1
    assert failed >= 1
    assert await in_thread(taken) == answered.cost_micros + failed * -(-turn.input_tokens * 9 // 10)
    await in_thread(closing.settle_turn, answered, answered)
    assert await in_thread(SpendingEntry.objects.count) == failed


async def test_a_deletion_before_the_first_word_pays_the_prompt_as_a_stop_does(
    redis: Redis, runner: Runner, ana: User, hang: str, provider: FakeProvider
):
    turn = await asked(ana, hang, provider, redis)

    def delete() -> int:
        client = APIClient()
        client.force_authenticate(ana)
        return int(client.delete(f"/api/v1/conversations/{turn.conversation_id}?forever=true").status_code)

    assert await in_thread(delete) == 204
    assert await used(ana) == await in_thread(taken) == turn.input_tokens


async def test_an_answer_that_takes_too_long_in_all_is_free_and_in_the_day(
    redis: Redis, runner: Runner, ana: User, hang: str, settings: Settings
):
    settings.TURN_SECONDS = 0.5
    turn = await aask(ana, LONG, model=hang)
    failed = await closed(turn)
    assert (failed.error, failed.cost_micros, await in_thread(taken)) == ("timeout", None, turn.input_tokens)


# --- Somebody dies ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def doomed(redis: Redis, impatient: None) -> Callable[[], None]:
    """A runner that runs until the function is called: then it is killed."""
    runner = Runner()
    task = asyncio.create_task(runner.run(asyncio.Event()))
    return lambda: kill(runner, task)


async def test_a_dead_runner_costs_the_person_nothing_and_its_request_is_in_the_day(
    redis: Redis, ana: User, hang: str, provider: FakeProvider, doomed: Callable[[], None]
):
    turn = await asked(ana, hang, provider, redis)
    doomed()
    await in_thread(change, hang, provider_model="fake-3t-0ms")
    async with running():
        answered = await closed(turn)
    assert (answered.status, answered.gen) == ("completed", 2)
    assert await used(ana) == answered.cost_micros > 0
    assert await in_thread(taken) == answered.cost_micros + turn.input_tokens


async def test_a_stop_whose_runner_dies_before_it_is_settled_is_paid_once(
    redis: Redis, ana: User, hang: str, provider: FakeProvider, doomed: Callable[[], None]
):
    turn = await asked(ana, hang, provider, redis)
    doomed()
    await stop_turn(turn)  # the lease still says that it runs
    async with running():
        stopped = await closed(turn)
    assert (stopped.status, stopped.model, stopped.cost_micros) == ("stopped", hang, turn.input_tokens)
    assert await used(ana) == await in_thread(taken) == turn.input_tokens
    assert len(provider.requests) == 1


async def test_a_stop_after_the_runner_died_is_free(
    redis: Redis, ana: User, hang: str, provider: FakeProvider, doomed: Callable[[], None]
):
    turn = await asked(ana, hang, provider, redis)
    doomed()
    await eventually(lambda: _is_gone(redis, turn))
    await stop_turn(turn)
    async with running():
        stopped = await closed(turn)
    assert (stopped.status, stopped.cost_micros) == ("stopped", None)
    assert (await used(ana), await in_thread(taken)) == (0, turn.input_tokens)


async def _is_gone(redis: Redis, turn: Turn) -> bool:
    return not await redis.exists(leases.lease_key(turn.pk))


@pytest.mark.parametrize("is_stopped", [True, False])
async def test_without_any_runner_the_sweep_counts_it(
    redis: Redis,
    ana: User,
    hang: str,
    provider: FakeProvider,
    doomed: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    is_stopped: bool,
):
    monkeypatch.setattr(sweeping, "ORPHAN_SECONDS", 0)
    settings.QUEUE_SECONDS = 0
    turn = await asked(ana, hang, provider, redis)
    doomed()
    if is_stopped:
        await stop_turn(turn)
    await eventually(lambda: _is_gone(redis, turn))
    await in_thread(grow_old, turn, 100)
    for _ in range(3):
        await repair_turns()
    found = await in_thread(saved, turn)
    assert (found.status, found.cost_micros) == (("stopped", turn.input_tokens) if is_stopped else ("failed", None))
    assert await used(ana) == (found.cost_micros or 0)
    assert await in_thread(taken) == turn.input_tokens


async def test_a_runner_that_drains_leaves_its_request_to_the_next(
    redis: Redis, ana: User, hang: str, provider: FakeProvider, settings: Settings, impatient: None
):
    settings.DRAIN_SECONDS = 0
    async with running():
        turn = await asked(ana, hang, provider, redis)
    assert (await in_thread(saved, turn)).is_open
    await in_thread(change, hang, provider_model="fake-3t-0ms")
    async with running():
        answered = await closed(turn)
    assert await used(ana) == answered.cost_micros
    assert await in_thread(taken) == answered.cost_micros + turn.input_tokens


async def test_who_dies_before_settling_leaves_on_the_turn_what_providers_take(
    redis: Redis, runner: Runner, ana: User, offer: Offer, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
):
    def die(*_: object, **__: object) -> None:
        raise Died

    turn = await aask(ana, LONG, model=(await in_thread(offer, "fake-0t-0ms-nofinish")).key)
    with monkeypatch.context() as patch:
        patch.setattr(metering, "release", die)

        async def is_saved() -> bool:
            return not (await in_thread(saved, turn)).is_open

        await eventually(is_saved)
    await in_thread(grow_old, turn, 100)
    for _ in range(2):
        await in_thread(settle_unsettled)
    assert (await used(ana), await in_thread(taken)) == (0, len(provider.requests) * turn.input_tokens)


@pytest.mark.parametrize("breaks", ["Redis", "the process"])
async def test_a_failed_question_that_is_repeated_is_in_the_day_once(
    redis: Redis,
    runner: Runner,
    ana: User,
    offer: Offer,
    provider: FakeProvider,
    monkeypatch: pytest.MonkeyPatch,
    breaks: str,
):
    """Whoever repeats it reserves once more, before they see that it is over."""
    asked = question(LONG, model=(await in_thread(offer, "fake-0t-0ms-nofinish")).key)
    turn = (await in_thread(open_turn, ana.pk, asked)).turn
    await closed(turn)

    def be_away(*_: object, **__: object) -> None:
        raise RedisConnectionError

    def repeat() -> str:
        try:
            return open_turn(ana.pk, asked).turn.status
        except Died:
            return "died"

    with monkeypatch.context() as patch:
        if breaks == "Redis":
            patch.setattr(limits, "uncount_question", be_away)
        else:
            patch.setattr(metering, "release", die)
        assert await in_thread(repeat) == ("failed" if breaks == "Redis" else "died")
    assert await in_thread(is_held, turn) == (breaks == "the process")
    await in_thread(grow_old, turn, 100)
    await in_thread(settle_unsettled)
    assert (await used(ana), await in_thread(taken)) == (0, len(provider.requests) * turn.input_tokens)


# --- When it was sent -------------------------------------------------------------------------------------------------


def request_to(slug: str, url: str, note_sent: Callable[[], None], text: str = "hola") -> ModelRequest:
    adapter = {"openai": "openai_chat", "anthropic": "anthropic_messages", "gemini": "gemini"}[slug]
    served_by = Provider(slug, slug, adapter, url, "sk-secret")
    return ModelRequest(
        provider=served_by, model="m", messages=(Message("user", text),), max_output=9, note_sent=note_sent
    )


@pytest.mark.django_db(databases=[])
@pytest.mark.parametrize("slug", ["openai", "anthropic", "gemini"])
@pytest.mark.parametrize("transport", ["fast", "sdk"])
@pytest.mark.parametrize("size", [10, 2_000_000])
async def test_a_request_is_sent_once_when_all_of_it_is_and_never_where_nobody_listens(
    slug: str, transport: str, size: int
):
    noted: list[bool] = []
    async with answering(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n") as raw:
        for url in (raw.url, "http://127.0.0.1:1/v1"):
            request = request_to(slug, url, lambda: noted.append(True), "x" * size)
            stream = ADAPTERS[request.provider.adapter] if transport == "fast" else sdk.stream
            with pytest.raises(ProviderError):
                async with aclosing(stream(request)) as events:
                    [event async for event in events]
    await close_session()
    await sdk.close_clients()
    assert len(noted) <= 1
    assert noted or size > 10  # a long one may be refused in its middle


# --- What is said of it -----------------------------------------------------------------------------------------------

SENTENCES = {
    "en": "You stopped after your question had been sent to the model: the charge is for reading it.",
    "es": "Detuviste la respuesta cuando tu pregunta ya se había enviado al modelo: se te cobra por leerla",
    "pt-br": "Você parou a resposta quando sua pergunta já tinha sido enviada ao modelo: a cobrança é pela leitura",
}


def stopped_turn(**fields: Any) -> Turn:
    return Turn(question="hola", status="stopped", requested_model="scripted", max_output=9, seq=1, **fields)


@pytest.mark.parametrize("language", list(SENTENCES))
def test_a_turn_says_why_a_stop_was_charged_in_each_language(catalog: None, language: str):
    with translation.override(language):
        html = turn_html(stopped_turn(owner_id=1, cost_micros=5, input_tokens=5, usage_source="estimated"))
        assert SENTENCES[language] in html
        thought = stopped_turn(owner_id=1, cost_micros=5, output_tokens=4, usage_source="estimated")
        assert str(CHARGED_FOR_STOPPED_THOUGHT) in turn_html(thought)
        assert str(CHARGED_NOTHING) in turn_html(stopped_turn(owner_id=1))


async def test_the_api_says_why_a_stop_was_charged(
    redis: Redis, runner: Runner, ana: User, hang: str, provider: FakeProvider
):
    turn = await asked(ana, hang, provider, redis)

    def get() -> dict[str, Any]:
        client = APIClient(HTTP_ACCEPT_LANGUAGE="en")
        client.force_authenticate(ana)
        found: dict[str, Any] = client.get(f"/api/v1/turns/{turn.pk}").json()
        return found

    await stop_turn(turn)
    await closed(turn)
    shown = await in_thread(get)
    with translation.override("en"):
        assert (shown["cost_micros"], shown["cost_detail"]) == (turn.input_tokens, str(CHARGED_FOR_STOPPED))
