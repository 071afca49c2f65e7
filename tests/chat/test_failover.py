"""Somebody else answers, and the answer says so: in the page, over the API, and after a crash."""

import pytest
from django.test import Client
from django.utils import translation
from redis.asyncio import Redis

from accounts.models import User
from chat.models import LanguageModel
from chat.shown.fragments import turn_html
from core.threads import in_thread
from history.models import Turn
from testbed.provider import FakeProvider, expected_text
from tests.chat.asking import aask, closed
from tests.chat.conftest import Offer, running

pytestmark = [pytest.mark.stores, pytest.mark.django_db(databases=["default", "history"], transaction=True)]

SENTENCES = {
    "en": "Answered by Second because First was unavailable.",
    "es": "Respondió Second porque First no estaba disponible.",
    "pt-br": "Respondido por Second porque First não estava disponível.",
}


def offer_two(offer: Offer, first: str, second: str) -> None:
    scripted = LanguageModel.objects.get(key="scripted")
    scripted.enabled = False
    scripted.save()
    offer(first, label="First", position=1)
    offer(second, label="Second", position=2)


def html_in(language: str, turn: Turn) -> str:
    with translation.override(language):
        return turn_html(turn)


async def answered(carla: User, model: str = "auto") -> Turn:
    async with running():
        return await closed(await aask(carla, "one two three", model=model))


async def test_the_answer_says_who_answered_for_whom(
    redis: Redis, carla: User, offer: Offer, provider: FakeProvider, catalog: None
):
    await in_thread(offer_two, offer, "status-500", "fake-3t-0ms")
    turn = await answered(carla)
    assert (turn.status, turn.answer) == ("completed", expected_text("fake-3t-0ms"))
    assert (turn.model, turn.instead_of, turn.instead_because) == ("fake-3t-0ms", "status-500", "overloaded")
    for language, sentence in SENTENCES.items():
        assert sentence in await in_thread(html_in, language, turn)


@pytest.mark.parametrize(
    ("because", "sentence"),
    [
        ("context_exceeded", "because the conversation was too long for First."),
        ("rate_limited", "because First had too many requests."),
        ("timeout", "because First did not answer in time."),
        ("connection", "because First was unavailable."),
        ("", "because First was unavailable."),
    ],
)
def test_the_answer_says_why(carla: User, offer: Offer, because: str, sentence: str):
    offer_two(offer, "status-500", "fake-3t-0ms")
    turn = Turn(
        owner_id=carla.pk,
        status=Turn.Status.COMPLETED,
        model="fake-3t-0ms",
        instead_of="status-500",
        instead_because=because,
    )
    assert f"Answered by Second {sentence}" in html_in("en", turn)


async def test_the_api_says_it_too(redis: Redis, carla: User, offer: Offer, provider: FakeProvider, catalog: None):
    await in_thread(offer_two, offer, "status-500", "fake-3t-0ms")
    turn = await answered(carla)

    def read() -> dict[str, object]:
        client = Client()
        client.force_login(carla)
        found: dict[str, object] = client.get(f"/api/v1/turns/{turn.pk}").json()
        return found

    found = await in_thread(read)
    assert (found["model"], found["instead_of"]) == ("fake-3t-0ms", "status-500")


async def test_a_first_choice_stands_in_for_nobody(
    redis: Redis, carla: User, offer: Offer, provider: FakeProvider, catalog: None
):
    await in_thread(offer_two, offer, "fake-3t-0ms-flaky1", "fake-4t-0ms")
    turn = await answered(carla)
    assert (turn.model, turn.instead_of, turn.instead_because) == ("fake-3t-0ms-flaky1", "", "")
    assert "unavailable" not in await in_thread(html_in, "en", turn)


async def test_a_model_that_was_named_is_never_replaced(
    redis: Redis, carla: User, offer: Offer, provider: FakeProvider, catalog: None
):
    await in_thread(offer_two, offer, "status-500", "fake-3t-0ms")
    turn = await answered(carla, model="status-500")
    assert (turn.status, turn.error, turn.instead_of, turn.cost_micros) == ("failed", "overloaded", "", None)
    assert (turn.model, turn.provider) == ("status-500", "compatible")


async def test_when_all_fail_the_page_names_who_was_asked_last(
    redis: Redis, carla: User, offer: Offer, provider: FakeProvider, catalog: None
):
    await in_thread(offer_two, offer, "status-500", "status-502")
    turn = await answered(carla)
    assert (turn.status, turn.model, turn.provider, turn.instead_of) == ("failed", "status-502", "compatible", "")
    html = await in_thread(html_in, "en", turn)
    assert "Auto → <bdi>Second</bdi>" in html
    assert "Answered by" not in html
    assert "Nothing was charged." in html
