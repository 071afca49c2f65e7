"""Two models side by side on the same question: a right of a plan, two turns, two reservations, one that goes on."""

import re

import pytest
from django.test import Client
from redis.asyncio import Redis

from accounts.models import User
from billing import metering
from billing.errors import ComparisonNotInPlan, TooManyAtOnce
from billing.models import Plan
from chat.models import LanguageModel
from chat.turns.closing import close_turn
from chat.turns.opening import open_turn
from core.errors import NotFound
from core.threads import in_thread
from history import branches
from history.models import Conversation, Turn, new_id
from history.progress import Outcome
from tests.chat.asking import ask, question, reservation_of, saved
from tests.chat.attaching import attached, ids
from tests.chat.live import page_of

pytestmark = [pytest.mark.stores, pytest.mark.usefixtures("catalog")]


@pytest.fixture(autouse=True)
def both(catalog: None) -> None:
    """Everybody may compare, and there is a second model."""
    change_free(has_comparison=True, turns_at_once=2)
    model = LanguageModel.objects.get(key="scripted")
    model.pk, model.key, model.provider_model, model.label, model.sees_images = None, "other", "other", "Other", True
    model.save()


def change_free(**fields: object) -> None:
    plan = Plan.objects.get(key="free")
    for name, value in fields.items():
        setattr(plan, name, value)
    plan.save()


def ask_beside(user: User, turn: Turn, **fields: object) -> Turn:
    asked = question("", model="other", conversation_id=turn.conversation_id, beside_id=turn.pk, **fields)
    return open_turn(user.pk, asked).turn


def test_the_second_turn_is_the_same_question_in_the_same_place_of_another_model(ana: User):
    LanguageModel.objects.filter(key="scripted").update(sees_images=True)
    root = ask(ana)
    close_turn(root, Outcome(Turn.Status.STOPPED))
    file = attached(ana)
    first = ask(ana, "Which?", conversation_id=root.conversation_id, attachments=ids(file))
    second = ask_beside(ana, first)
    same = ("question", "attachments", "parent_id", "depth", "owner_id", "conversation_id")
    assert [getattr(second, name) for name in same] == [getattr(first, name) for name in same]
    assert (second.requested_model, second.beside_id, first.beside_id) == ("other", first.pk, None)
    assert {reservation_of(turn).state for turn in (first, second)} == {"held"}
    conversation = Conversation.objects.get(pk=root.conversation_id)
    assert conversation.leaf_id == first.pk
    assert branches.list_branch(conversation, limit=30).pair == (first, second)
    assert ask_beside(ana, first, turn_id=second.pk) == second


def test_a_plan_without_it_refuses_and_says_where_to_go(ana: User):
    change_free(has_comparison=False)
    first = ask(ana)
    with pytest.raises(ComparisonNotInPlan):
        ask_beside(ana, first)
    assert Turn.objects.count() == 1
    assert metering.find_reservation(first.pk) is not None


def test_only_a_turn_of_the_conversation_has_something_beside_it(ana: User, bo: User):
    first = ask(ana)
    for turn in (
        ask(bo),
        Turn(pk=new_id(), conversation_id=first.conversation_id),
        Turn(pk=new_id(), conversation_id=new_id()),
    ):
        with pytest.raises(NotFound):
            ask_beside(ana, turn)


def test_where_the_second_is_refused_the_first_still_runs(ana: User):
    change_free(turns_at_once=1)
    first = ask(ana)
    with pytest.raises(TooManyAtOnce):
        ask_beside(ana, first)
    assert saved(first).is_open
    assert Turn.objects.count() == 1


async def test_a_page_is_told_of_both_and_why_the_second_was_refused(ana: User, redis: Redis):
    async with page_of(ana) as page:
        first_id = await page.start()
        started = await page.next("turn.started")
        where = {"conversation_id": started["conversation_id"], "beside_id": first_id, "model": "other"}
        await page.start("", **where)
        assert (await page.next("turn.started"))["beside_id"] == str(first_id)
        await in_thread(change_free, has_comparison=False)
        third_id = await page.start("", **where)
        rejected = await page.next("turn.rejected")
    assert (rejected["turn_id"], rejected["code"]) == (str(third_id), "comparison_not_in_plan")
    assert "/pricing/" in rejected["html"]


def test_a_form_asks_both_once_and_shows_them_side_by_side(ana: User):
    ana.locale = "en"
    ana.save()
    browser = Client()
    browser.force_login(ana)
    conversation_id = new_id()
    fields = {"text": "Which?", "model": "scripted", "beside": "other", "turn_id": str(new_id())}
    for _ in range(2):
        page = browser.post(f"/c/{conversation_id}/", fields, follow=True)
    first, second = Turn.objects.order_by("seq")
    assert (second.beside_id, second.requested_model) == (first.pk, "other")
    shown = page.content.decode()
    assert len(re.findall("<article", shown.split("data-pair")[1])) == 2
    assert 'http-equiv="refresh"' in shown
    choice = re.findall(r'<button[^>]*form="branch"[^>]*value="([^"]*)"[^>]*>Go on', shown)
    assert choice == [str(second.pk)]  # with the first it goes on anyway
    browser.post(f"/c/{conversation_id}/branch/", {"turn": choice[0]})
    assert Conversation.objects.get().leaf_id == second.pk
    change_free(has_comparison=False)
    for turn in (first, second):
        close_turn(turn, Outcome(Turn.Status.STOPPED))
    page = browser.post(f"/c/{new_id()}/", {**fields, "turn_id": str(new_id())}, follow=True)
    assert str(ComparisonNotInPlan.message) in page.content.decode()
    assert Turn.objects.count() == 3


def test_the_answer_that_was_cut_goes_on_whichever_is_chosen(ana: User):
    first = ask(ana)
    second = ask_beside(ana, first)
    for turn in (first, second):
        close_turn(turn, Outcome(Turn.Status.INTERRUPTED, answer="Half", error="truncated"))
    browser = Client()
    browser.force_login(ana)
    address = f"/c/{first.conversation_id}/"
    assert f'value="{second.pk}"' in browser.get(address).content.decode().split('name="continue"')[2]
    browser.post(address, {"continue": str(second.pk), "model": "scripted"})
    assert Turn.objects.latest("seq").parent_id == second.pk
