"""What providers report, and how much they send, as bytes at the wire: nobody pays more than was reserved for them."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from pytest_django import Settings
from redis.asyncio import Redis

from accounts.models import User
from billing.models import Reservation, UsageRecord
from chat.llm.health.counters import read_counts, tally_of
from chat.llm.providers import sdk
from chat.models import LanguageModel
from chat.turns import log
from chat.turns.runner import Runner
from chat.turns.stopping import stop_turn
from core.threads import in_thread
from history.models import Turn
from tests.chat import transcripts
from tests.chat.asking import aask, closed, eventually, period_of, record_of, reservation_of, saved
from tests.chat.conftest import Offer
from tests.chat.transcripts import HEAD, Script, Speaker, chunked, whole
from tests.chat.wire import STREAM, answering

CAP = 1_000
LONG = replace(Script(), text=("palabra " * 490_000,), usage=None)  # one event of 3.9 MB
ENDLESS = replace(Script(), text=("palabra " * 100,) * 500, usage=None)


@dataclass(frozen=True)
class Family:
    provider: str
    setting: str
    speak: Speaker


FAMILIES = [
    Family("openai", "OPENAI", transcripts.openai),
    Family("anthropic", "ANTHROPIC", transcripts.anthropic),
    Family("gemini", "GEMINI", transcripts.gemini),
    Family("deepseek", "DEEPSEEK", transcripts.openai),
]


@pytest.fixture(params=FAMILIES, ids=lambda family: family.provider)
def family(request: pytest.FixtureRequest, catalog: None, settings: Settings) -> Family:
    """A family, and a model of it that is on offer: of a provider, which answers what a test tells it to."""
    found: Family = request.param
    setattr(settings, f"{found.setting}_API_KEY", "sk-secret-of-the-house")
    LanguageModel.objects.create(
        key="told",
        provider=found.provider,
        provider_model="told",
        label="Told",
        tier="cheap",
        context_window=8_000,
        max_output=CAP,
        input_price=1_000_000,
        output_price=2_000_000,
    )
    return found


@pytest.fixture(params=["fast", "sdk"])
async def transport(request: pytest.FixtureRequest, family: Family, settings: Settings) -> AsyncIterator[str]:
    settings.SDK_PROVIDERS = [family.provider] if request.param == "sdk" else []
    yield request.param
    await sdk.close_clients()


@asynccontextmanager
async def provider_of(
    family: Family, settings: Settings, *pieces: bytes, pause_seconds: float = 0
) -> AsyncIterator[None]:
    async with answering(*pieces, pause_seconds=pause_seconds) as raw:
        setattr(settings, f"{family.setting}_BASE_URL", raw.url)
        yield


async def answer(user: User, family: Family, settings: Settings, script: Script) -> Turn:
    async with provider_of(family, settings, *whole(family.speak(script))):
        return await closed(await aask(user, "hola", model="told"))


async def assert_paid(turn: Turn) -> UsageRecord:
    """The turn is closed and paid: what its page says is what its owner was charged, and no more than was reserved."""
    reservation, record = await in_thread(reservation_of, turn), await in_thread(record_of, turn)
    assert reservation.state == Reservation.State.SETTLED
    assert record.cost_micros == turn.cost_micros <= reservation.amount_micros == turn.max_cost_micros
    assert (record.source, record.output_tokens) == (turn.usage_source, turn.output_tokens)
    return record


async def test_what_a_provider_really_counts_is_what_it_costs(
    redis: Redis, runner: Runner, ana: User, family: Family, settings: Settings
):
    turn = await answer(ana, family, settings, replace(Script(), usage=(40, 9, 0, 0, 0)))
    assert (turn.status, turn.answer, turn.usage_source) == ("completed", "".join(Script().text), "provider")
    assert turn.cost_micros == 40 + 2 * 9
    await assert_paid(turn)


async def test_a_false_count_is_estimated_and_the_next_question_has_its_place(
    redis: Redis, runner: Runner, ana: User, family: Family, transport: str, settings: Settings
):
    """On a plan that answers one question at once: a turn that could not be saved would be its last."""
    counts = [(3_000_000_000, 9), (40, 9_000_000_000_000_000_000), (7_000, 9), (40, 900), (0, 0), (40, 0), (0, 9)]
    for read, written in counts:
        turn = await answer(ana, family, settings, replace(Script(), usage=(read, written, 0, 0, 0)))
        assert (turn.status, turn.answer, turn.usage_source) == ("completed", "".join(Script().text), "estimated")
        record = await assert_paid(turn)
        assert record.spent_micros == turn.cost_micros == turn.input_tokens + 2 * turn.output_tokens > 0
    period = await in_thread(period_of, ana)
    assert (period.account.holds, period.reserved_micros) == (0, 0)


async def test_one_event_of_megabytes_ends_at_the_cap(
    redis: Redis, runner: Runner, ana: User, family: Family, transport: str, settings: Settings
):
    turn = await answer(ana, family, settings, LONG)
    if transport == "sdk":  # it would read so long that no other answer is
        assert (turn.status, turn.error, turn.cost_micros) == ("failed", "bad_response", None)
        return
    assert (turn.status, turn.finish_reason, turn.usage_source) == ("completed", "length", "estimated")
    assert (len(turn.answer), turn.output_tokens) == (32 * CAP, CAP)
    await assert_paid(turn)


async def test_a_stream_without_an_end_is_left_at_the_cap(
    redis: Redis, runner: Runner, ana: User, family: Family, settings: Settings
):
    first, *rest = family.speak(ENDLESS)[:-3]
    pieces = [HEAD + chunked(first), *map(chunked, rest), b"", b""]
    async with provider_of(family, settings, *pieces, pause_seconds=0.0005):
        turn = await closed(await aask(ana, "hola", model="told"))
    assert (turn.status, turn.finish_reason, turn.error) == ("completed", "length", "")
    assert (len(turn.answer), turn.output_tokens) == (32 * CAP, CAP)
    await assert_paid(turn)


async def test_a_turn_with_a_false_count_can_be_stopped(
    redis: Redis, runner: Runner, ana: User, settings: Settings, offer: Offer
):
    await in_thread(offer, "told")
    false = {"prompt_tokens": 9 * 10**18, "completion_tokens": 9 * 10**18}
    chunk = json.dumps({"choices": [{"delta": {"content": "hola"}}], "usage": false})
    async with answering(STREAM + b"data: " + chunk.encode() + b"\n\n", b"", pause_seconds=20) as raw:
        settings.OPENAI_COMPATIBLE_BASE_URL = raw.url
        turn = await stopped_when_shown(redis, ana)
    assert (turn.status, turn.answer, turn.usage_source) == ("stopped", "hola", "estimated")
    await assert_paid(turn)


@pytest.mark.parametrize("family", FAMILIES[:1], ids=["openai"], indirect=True)
async def test_a_stop_while_usage_is_awaited_does_not_make_reasoning_free(
    redis: Redis, runner: Runner, ana: User, family: Family, transport: str, settings: Settings
):
    await in_thread(LanguageModel.objects.update, reasons=True)
    *events, usage, done = family.speak(replace(Script(), usage=(40, 900, 0, 0, 890)))
    pieces = (STREAM + b"".join(events), usage + done)
    async with provider_of(family, settings, *pieces, pause_seconds=1.2):
        turn = await stopped_when_shown(redis, ana)
    assert (turn.status, turn.answer, turn.usage_source) == ("completed", "".join(Script().text), "provider")
    assert turn.cost_micros == 40 + 2 * 900
    await assert_paid(turn)


@pytest.mark.parametrize("family", FAMILIES[2:3], ids=["gemini"], indirect=True)
async def test_who_says_with_each_event_why_it_ended_is_stopped_all_the_same(
    redis: Redis, runner: Runner, ana: User, family: Family, transport: str, settings: Settings
):
    text = {"content": {"parts": [{"text": "palabra "}]}, "finishReason": "STOP"}
    event = b"data: " + json.dumps({"candidates": [text]}).encode() + b"\n\n"
    async with provider_of(family, settings, STREAM, *[event] * 300, pause_seconds=0.1):
        turn = await stopped_when_shown(redis, ana)
    assert turn.status == "stopped"
    await assert_paid(turn)


async def stopped_when_shown(redis: Redis, user: User) -> Turn:
    """Ask, stop as soon as there is a text, and return the turn when it is closed."""
    turn = await aask(user, "hola", model="told")

    async def is_shown() -> bool:
        return bool(log.replay(await log.read_log(redis, turn.pk)).text)

    await eventually(is_shown)
    await stop_turn(await in_thread(saved, turn))
    return await closed(turn)


async def test_a_false_count_is_no_speed_and_ends_no_answer(
    redis: Redis, runner: Runner, ana: User, settings: Settings, offer: Offer
):
    """Speeds are shown to everybody; and a number of 309 digits is more than a float holds."""
    await in_thread(offer, "told")
    chunk = json.dumps({"choices": [{"delta": {"content": "palabra " * 30}}]}).encode()
    for written in (3_000_000_000, int("9" * 309), 60):
        usage = {"prompt_tokens": 50, "completion_tokens": written}
        end = json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage}).encode()
        pieces = (STREAM + b"data: " + chunk + b"\n\n", b"data: " + end + b"\n\ndata: [DONE]\n\n")
        async with answering(*pieces, pause_seconds=0.3) as raw:
            settings.OPENAI_COMPATIBLE_BASE_URL = raw.url
            turn = await closed(await aask(ana, "hola", model="told"))
        assert (turn.status, turn.error) == ("completed", "")

    async def are_counted() -> bool:
        counts = await in_thread(read_counts)
        told = tally_of(counts.slots, "compatible", "told")
        assert told.tokens_per_second is None or told.tokens_per_second < 60 / 0.2
        return (told.ok, sum(told.speed.values())) == (3, 1)

    await eventually(are_counted)
