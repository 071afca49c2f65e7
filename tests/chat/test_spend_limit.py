"""The operator's daily limit of a provider: it stops paid turns, says so plainly, and is told of before."""

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from redis.asyncio import Redis

from accounts.models import User
from billing.errors import SpendLimitReached
from billing.models import Spending
from chat.llm import spending
from chat.llm.spending import stopped_providers
from chat.models import LanguageModel, ProviderLimit
from chat.provider_registry import BILLING_PROVIDERS
from chat.turns.closing import close_turn
from chat.turns.runner import Runner
from chat.turns.sweeping import repair_turns
from core.threads import in_thread
from history.models import Turn
from history.progress import Outcome
from tests.chat.asking import aask, ask, closed, period_of, question, reservation_of, saved
from tests.chat.conftest import Offer

MICROS = 1_000_000


def limit(micros: int, provider: str = "scripted") -> ProviderLimit:
    return ProviderLimit.objects.update_or_create(provider=provider, defaults={"daily_micros": micros})[0]


@pytest.fixture
def alerts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the operator is told."""
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(spending, "alert", lambda subject, message, **fields: told.append((subject, message % fields)))
    return told


def test_without_a_limit_nobody_is_stopped(carla: User, django_assert_num_queries: Callable[..., Any]):
    assert stopped_providers() == frozenset()
    spending.forget_spending()
    with django_assert_num_queries(0):
        assert stopped_providers() == frozenset()


# --- A new installation -----------------------------------------------------------------------------------------------


def limits_of() -> dict[str, int]:
    return dict(ProviderLimit.objects.values_list("provider", "daily_micros"))


def prepare_models() -> str:
    printed = StringIO()
    call_command("load_catalog", stdout=printed)
    return printed.getvalue()


@pytest.mark.stores
def test_a_new_installation_limits_every_provider_that_sends_bills_and_says_so(db: None):
    assert "US$20 a day" in prepare_models()
    assert limits_of() == dict.fromkeys(BILLING_PROVIDERS, 20 * MICROS)
    assert prepare_models() == ""


def test_what_an_operator_made_of_the_first_limits_stays(db: None):
    prepare_models()
    ProviderLimit.objects.filter(provider="openai").update(daily_micros=5)
    ProviderLimit.objects.exclude(provider="openai").delete()
    prepare_models()
    assert limits_of() == {"openai": 5}


def test_an_installation_that_was_there_gets_no_limits(catalog: None):
    LanguageModel.objects.exclude(key="scripted").delete()
    assert prepare_models() == ""
    assert limits_of() == {}


def test_who_died_between_the_limits_and_the_models_begins_again(db: None):
    ProviderLimit.objects.create(provider="openai", daily_micros=20 * MICROS)
    assert "US$20 a day" in prepare_models()
    assert limits_of() == dict.fromkeys(BILLING_PROVIDERS, 20 * MICROS)


def test_the_first_limits_stop_a_provider(db: None):
    prepare_models()
    assert spending.spending_by_provider()["openai"][1] == 20 * MICROS


@pytest.mark.django_db(databases=["default", "history"])
def test_the_admin_says_where_a_new_installation_begins(admin_client: Client):
    assert "20" in admin_client.get("/admin/chat/providerlimit/").context["subtitle"]


# --- A limit ----------------------------------------------------------------------------------------------------------


def test_an_answer_on_its_way_is_counted_in(carla: User):
    limit(1)
    turn = ask(carla)
    assert reservation_of(turn).spending_micros == reservation_of(turn).amount_micros > 1
    spending.forget_spending()
    assert stopped_providers() == {"scripted"}
    with pytest.raises(SpendLimitReached) as refused:
        ask(carla)
    assert 0 < refused.value.retry_after <= 86_400
    assert Turn.objects.count() == 1


def test_the_gate_is_exact_though_the_list_is_a_second_old(carla: User):
    limit(1)
    assert stopped_providers() == frozenset()
    ask(carla)
    assert stopped_providers() == frozenset(), "what this process believes"
    with pytest.raises(SpendLimitReached):
        ask(carla)
    assert stopped_providers() == {"scripted"}


def test_the_refused_question_counts_for_nothing(ana: User):
    limit(0)
    for _ in range(30):  # more than Ana may ask in an hour
        with pytest.raises(SpendLimitReached):
            ask(ana)
    limit(MICROS)
    spending.forget_spending()
    ask(ana)
    assert period_of(ana).account.holds == 1


def test_the_same_question_again_is_its_turn_though_the_day_is_over(carla: User):
    asked = question()
    limit(1)
    from chat.turns.opening import open_turn

    turn = open_turn(carla.pk, asked).turn
    spending.forget_spending()
    assert open_turn(carla.pk, asked).turn.pk == turn.pk


def test_another_provider_goes_on_and_auto_takes_it(carla: User, offer: Offer):
    other = offer("fake-1t-0ms", position=999)
    limit(1)
    ask(carla, model="auto")
    assert Spending.objects.get().supplier == "scripted"
    turn = ask(carla, model="auto")  # this process does not know yet; it is told by the gate, and takes the other
    assert turn.requested_model in ("auto", other.key)
    assert reservation_of(turn).spending_id is None
    assert ask(carla, model=other.key).requested_model == other.key


def test_a_limit_is_one_more_statement_and_only_where_there_is_one(carla: User):
    def statements() -> int:
        with CaptureQueriesContext(connections["default"]) as captured:
            ask(carla)
        return len(captured)

    ask(carla)
    without = statements()
    limit(MICROS, "openai")
    ask(carla)
    assert statements() == without
    limit(MICROS)
    for _ in range(2):
        ask(carla)  # the row of the day is made, and then known
    stopped_providers()
    assert statements() == without + 1


def test_every_provider_that_may_answer_is_held_of_its_day(carla: User, offer: Offer):
    """Of each one what its dearest candidate can take, until the turn ends."""
    offer("fake-1t-0ms", position=2, input_price=2_000_000)
    offer("fake-2t-0ms", position=3, input_price=3_000_000)
    limit(MICROS)
    limit(MICROS, "compatible")
    limit(MICROS, "openai")
    turn = ask(carla, model="auto")
    assert set(turn.candidates.split()) == {"scripted", "fake-1t-0ms", "fake-2t-0ms"}
    held = dict(Spending.objects.values_list("supplier", "reserved_micros"))
    assert held.keys() == {"scripted", "compatible"}
    assert held["compatible"] == turn.max_cost_micros > held["scripted"] > 0
    close_turn(turn, Outcome(Turn.Status.STOPPED))
    assert set(Spending.objects.values_list("reserved_micros", flat=True)) == {0}


def test_a_provider_without_room_left_is_no_fallback_either(carla: User, offer: Offer):
    """This process does not know yet; it is told by the gate, and asks the other one alone."""
    offer("fake-1t-0ms", position=2)
    limit(MICROS)
    limit(1, "compatible")
    assert set(ask(carla, model="auto").candidates.split()) == {"scripted", "fake-1t-0ms"}
    assert stopped_providers() == frozenset()
    turn = ask(carla, model="auto")
    assert turn.candidates == "scripted"
    assert Spending.objects.get(supplier="compatible").reserved_micros < 2 * turn.max_cost_micros


def test_a_turn_ends_with_no_more_statements_than_before_where_there_is_no_limit(
    carla: User, django_assert_num_queries: Callable[..., Any]
):
    """Released: the state, the reservation, the period, and the transaction around them."""
    turn = ask(carla)
    with django_assert_num_queries(5, using="default"):
        close_turn(turn, Outcome(Turn.Status.STOPPED))
    turn = ask(carla)
    limit(MICROS)
    ask(carla)
    with django_assert_num_queries(5, using="default"):
        close_turn(turn, Outcome(Turn.Status.STOPPED))


def test_auto_with_nobody_left_is_refused(carla: User):
    limit(1)
    ask(carla, model="auto")
    with pytest.raises(SpendLimitReached):
        ask(carla, model="auto")


def test_what_is_free_is_never_stopped(carla: User):
    LanguageModel.objects.filter(key="scripted").update(input_price=0, output_price=0)
    limit(0)
    ask(carla)


def test_markup_is_ours_and_not_counted(carla: User):
    model = LanguageModel.objects.get(key="scripted")
    model.markup_percent = 100
    model.save()
    limit(MICROS)
    held = reservation_of(ask(carla))
    assert held.amount_micros == 2 * held.spending_micros


async def test_what_the_provider_takes_is_counted_when_the_answer_is_over(redis: Redis, runner: Runner, carla: User):
    await in_thread(limit, 100)
    await closed(await aask(carla, "say:hola usage:12/34"))
    assert (await in_thread(spending.spending_by_provider))["scripted"][0].used_micros == 80
    await in_thread(spending.forget_spending)
    assert await in_thread(stopped_providers) == frozenset()
    await closed(await aask(carla, "say:hola usage:12/34"))
    await in_thread(spending.forget_spending)
    assert await in_thread(stopped_providers) == {"scripted"}


async def test_the_operator_is_told_at_80_and_at_100_percent_once(
    redis: Redis, runner: Runner, carla: User, alerts: list[tuple[str, str]]
):
    await in_thread(limit, 100)
    await repair_turns()
    assert alerts == []
    await closed(await aask(carla, "say:hola usage:12/34"))
    for _ in range(2):
        await repair_turns()
    assert [subject for subject, _ in alerts] == ["spend_limit:scripted:80"]
    assert alerts[0][1] == "Scripted: 80 % of today's limit is spent or promised: $0.00 of $0.00."
    await closed(await aask(carla, "say:hola usage:12/34"))
    for _ in range(2):
        await repair_turns()
    assert [subject for subject, _ in alerts] == ["spend_limit:scripted:80", "spend_limit:scripted:100"]


def test_two_steps_at_once_are_one_alert(carla: User, alerts: list[tuple[str, str]]):
    limit(1)
    ask(carla)
    spending.alert_near_limits()
    spending.alert_near_limits()
    assert [subject for subject, _ in alerts] == ["spend_limit:scripted:100"]


def test_a_limit_of_nothing_is_a_switch_and_no_alert(carla: User, alerts: list[tuple[str, str]]):
    limit(0)
    spending.alert_near_limits()
    assert alerts == []


def test_an_alert_that_was_lost_comes_again(carla: User, monkeypatch: pytest.MonkeyPatch, alerts: list[Any]):
    limit(1)
    ask(carla)
    with monkeypatch.context() as patch:

        def die(*_: object, **__: object) -> None:
            raise OSError

        patch.setattr(spending, "alert", die)
        with pytest.raises(OSError):
            spending.alert_near_limits()
    spending.alert_near_limits()
    assert len(alerts) == 1


def test_a_page_says_it_plainly(client: Client, carla: User):
    limit(0)
    client.force_login(carla)
    asked = question()
    answer = client.post(f"/c/{asked.conversation_id}/", {"text": "hola", "model": "scripted"})
    assert answer.status_code == 503
    assert "today is used up. Choose another model, or come back tomorrow." in answer.content.decode()


def test_the_api_says_it_with_a_code(carla: User, api: Callable[..., Any]):
    limit(0)
    answer = api(carla).post(
        f"/api/v1/conversations/{question().conversation_id}/turns", {"text": "x", "model": "scripted"}, format="json"
    )
    assert (answer.status_code, answer.json()["code"]) == (503, "spend_limit")
    assert 0 < int(answer.headers["Retry-After"]) <= 86_400


def test_the_operator_sets_it_in_dollars_and_sees_what_was_spent(olga: User, carla: User):
    operator = Client(HTTP_ACCEPT_LANGUAGE="en")
    operator.force_login(olga)
    form = {"provider": "openai", "daily_micros": "12.50"}
    assert operator.post("/admin/chat/providerlimit/add/", form).status_code == 302
    assert ProviderLimit.objects.get().daily_micros == 12_500_000
    limit(1)
    ask(carla)
    rows = operator.get("/admin/chat/providerlimit/").content.decode().split("<tr>")
    [ours] = [row for row in rows if ">scripted</a>" in row]
    assert '<td class="field-spent">0</td>' in ours
    assert 'alt="True"' in ours
    [theirs] = [row for row in rows if "field-provider" in row and ">openai</a>" in row]
    assert '<td class="field-limit">12.5</td>' in theirs
    assert 'alt="False"' in theirs


@pytest.mark.parametrize("dollars", ["-1", "", "1000001", "NaN", "much"])
def test_a_limit_that_cannot_be_is_refused(olga: User, dollars: str):
    operator = Client()
    operator.force_login(olga)
    assert (
        operator.post("/admin/chat/providerlimit/add/", {"provider": "openai", "daily_micros": dollars}).status_code
        == 200
    )
    assert not ProviderLimit.objects.exists()


@pytest.mark.parametrize("price", ["cache_read_price", "cache_write_price"])
@pytest.mark.parametrize("model", ["auto", ""])
def test_a_free_model_with_a_cache_price_is_stopped_like_any_that_costs(carla: User, model: str, price: str):
    """Auto took it for free, the gate did not: opening it called itself without an end."""
    LanguageModel.objects.filter(key="scripted").update(input_price=0, output_price=0, **{price: 1_000_000})
    limit(0)
    with pytest.raises(SpendLimitReached):
        ask(carla, model=model)
    assert (Turn.objects.count(), period_of(carla).account.holds) == (0, 0)


def test_auto_goes_on_with_what_is_really_free(carla: User, offer: Offer):
    LanguageModel.objects.filter(key="scripted").update(input_price=0, output_price=0, cache_read_price=1_000_000)
    free = offer("fake-1t-0ms", input_price=0, output_price=0, position=999)
    limit(0)
    assert saved(ask(carla, model="auto")).candidates == free.key
