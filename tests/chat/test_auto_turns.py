"""A turn that Auto chose for: whoever was chosen answers, and the page and the API say why."""

import pytest
from django.test import Client
from django.utils import translation
from redis.asyncio import Redis

from accounts.models import User
from billing import metering
from chat.models import LanguageModel
from chat.shown.fragments import turn_html
from chat.turns.claiming import claim_turn
from core.threads import in_thread
from history.models import Turn
from history.progress import Outcome, close
from testbed.provider import FakeProvider
from tests.chat.asking import aask, ask, closed, saved
from tests.chat.conftest import Offer, running

pytestmark = [pytest.mark.stores, pytest.mark.django_db(databases=["default", "history"], transaction=True)]

NOTICE = "Your credits are nearly used up: a quicker model answered."


def change(key: str, **fields: object) -> None:
    model = LanguageModel.objects.get(key=key)
    for name, value in fields.items():
        setattr(model, name, value)
    model.save()


def chosen_of(turn: Turn) -> list[str]:
    """Return who will be asked, as the turn's runner finds them."""
    claimed = claim_turn(saved(turn))
    assert claimed is not None
    return [candidate.model.key for candidate in claimed.candidates]


async def test_whom_the_reservation_is_for_answers_whatever_changes_meanwhile(
    redis: Redis, carla: User, offer: Offer, provider: FakeProvider, catalog: None
):
    await in_thread(change, "scripted", enabled=False)
    await in_thread(offer, "fake-2t-0ms")
    turn = await aask(carla, "hola", model="auto")
    await in_thread(lambda: offer("fake-9t-0ms", input_price=0, output_price=0, position=1))
    async with running():
        turn = await closed(turn)
    assert (turn.status, turn.model, turn.route) == ("completed", "fake-2t-0ms", "only_one")


def test_the_list_is_the_one_that_was_kept(carla: User, offer: Offer):
    for name in ("a", "b", "c", "d"):
        offer(name)
    turn = ask(carla, "hola", model="auto")
    kept = saved(turn).candidates.split()
    assert len(kept) == 3
    offer("e", input_price=1, output_price=1)
    assert chosen_of(turn) == kept


def test_who_was_withdrawn_meanwhile_is_not_asked(carla: User, offer: Offer):
    offer("a", position=1)
    turn = ask(carla, "hola", model="auto")
    first, second = saved(turn).candidates.split()
    change(first, enabled=False)
    assert chosen_of(turn) == [second]


def test_when_all_of_them_are_gone_the_turn_fails_free_of_charge(carla: User, offer: Offer):
    turn = ask(carla, "hola", model="auto")
    offer("a")
    change("scripted", enabled=False)
    assert claim_turn(saved(turn)) is None
    turn = saved(turn)
    assert (turn.status, turn.error, turn.cost_micros) == ("failed", "no_model", None)


def test_a_turn_from_before_the_choice_was_kept_has_whoever_may_answer(carla: User, offer: Offer):
    offer("a", position=1)
    turn = ask(carla, "hola", model="auto")
    Turn.objects.filter(pk=turn.pk).update(candidates="", route="")
    assert chosen_of(turn) == ["a", "scripted"]


def test_a_model_that_was_named_is_asked_even_if_its_key_is_odd(carla: User, offer: Offer):
    offer("my model")
    turn = ask(carla, "hola", model="my model")
    assert chosen_of(turn) == ["my model"]


@pytest.mark.parametrize("end", [{"status": "failed", "answer": ""}, {"status": "completed", "answer": "x"}])
def test_a_long_conversation_is_long_after_a_turn_that_used_nothing(carla: User, offer: Offer, end: dict[str, str]):
    """It failed, or came from the cache: its tokens are none, and say nothing of what was before."""
    offer("small", context_window=4_096, max_output=1_024, input_price=0, output_price=0)
    offer("large", context_window=200_000, max_output=1_024)
    LanguageModel.objects.filter(key="scripted").delete()
    first = ask(carla, "palabra " * 2_000, model="large")
    close(first, Outcome("completed", answer="Vale."))
    metering.release(first.pk)
    second = ask(carla, "otra", conversation_id=first.conversation_id, model="large")
    close(second, Outcome(**end))
    metering.release(second.pk)
    assert Turn.objects.get(pk=second.pk).input_tokens == 0
    assert ask(carla, "¿Y?", conversation_id=first.conversation_id, model="auto").candidates.split()[0] == "large"


@pytest.mark.parametrize(("route", "is_told"), [("last_credits", True), ("low_credits", False), ("short", False)])
def test_the_answer_says_that_credits_are_nearly_used_up(carla: User, route: str, is_told: bool):
    turn = ask(carla, model="auto")
    turn.route, turn.status, turn.answer = route, "completed", "Hola."
    with translation.override("en"):
        assert (NOTICE in turn_html(turn)) == is_told
    turn.status, turn.answer, turn.error = "failed", "", "timeout"
    assert NOTICE not in turn_html(turn)


def test_the_api_says_why(carla: User, offer: Offer):
    offer("a")
    turn = ask(carla, "hola", model="auto")
    client = Client()
    client.force_login(carla)
    assert client.get(f"/api/v1/turns/{turn.pk}").json()["route"] == "short"
