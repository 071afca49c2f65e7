"""List prices: read by a command and by the operator, kept with the day; installations older than list prices."""

import datetime as dt
from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.test import Client

from accounts.models import User
from chat.llm import catalog, price_list
from chat.llm.catalog import find_model, list_offered, load_catalog, update_list_prices
from chat.llm.pricing import max_cost, price_of
from chat.models import LanguageModel
from chat.turns.prompts import question_room

migration = import_module("chat.migrations.0005_list_prices_and_limits")
TODAY = dt.datetime.now(dt.UTC).date().isoformat()


@pytest.fixture(autouse=True)
def everything(catalog: None) -> None:
    pass


@pytest.fixture
def operator(olga: User) -> Client:
    client = Client(HTTP_ACCEPT_LANGUAGE="en")
    client.force_login(olga)
    return client


def test_a_new_installation_has_list_prices_and_none_of_its_own():
    luna = LanguageModel.objects.get(key="gpt-6-luna")
    assert luna.list_price == {
        "input": [[0, 100_000], [272_000, 200_000]],
        "output": [[0, 500_000], [272_000, 750_000]],
        "cache_read": [[0, 10_000], [272_000, 20_000]],
        "cache_write": [[0, 125_000], [272_000, 250_000]],
        "as_of": TODAY,
    }
    assert (luna.input_price, luna.output_price) == (None, None)
    demo = LanguageModel.objects.get(key="demo")
    assert (demo.list_price, demo.input_price) == (None, 0)


def test_the_day_stays_while_the_price_does_and_an_operators_price_stays_for_ever():
    luna = LanguageModel.objects.get(key="gpt-6-luna")
    luna.list_price["as_of"] = "2026-01-01"
    luna.input_price = 7
    luna.save()
    load_catalog()
    luna.refresh_from_db()
    assert (luna.list_price["as_of"], luna.input_price) == ("2026-01-01", 7)
    luna.list_price["input"] = [[0, 1]]
    luna.save()
    load_catalog()
    luna.refresh_from_db()
    assert (luna.list_price["as_of"], luna.list_price["input"]) == (TODAY, [[0, 100_000], [272_000, 200_000]])


def test_what_is_published_no_more_stays_as_it_was_last_known():
    before = find_model("gpt-6-luna").list_price
    assert update_list_prices(lambda models: [None] * len(models)) == []
    assert find_model("gpt-6-luna").list_price == before


def test_another_price_holds_at_once():
    cheaper = {"input": [[0, 1]], "output": [[0, 2]]}
    changed = update_list_prices(lambda models: [cheaper if name == "gpt-6-luna" else None for _, name in models])
    assert [model.key for model in changed] == ["gpt-6-luna"]
    assert price_of(find_model("gpt-6-luna")).tiers[0].input == 1


def test_the_operator_updates_them(operator: Client, settings: Any):
    settings.OPENAI_API_KEY = "k"
    new = LanguageModel.objects.create(
        key="astra",
        provider="openai",
        provider_model="gpt-6-astra",
        label="Astra",
        tier="strong",
        context_window=1_050_000,
        max_output=65_536,
    )
    assert "astra" not in [candidate.model.key for candidate in list_offered()]
    body = {"action": "update_prices", "_selected_action": [new.pk]}
    said = operator.post("/admin/chat/languagemodel/", body, follow=True).content.decode()
    assert "New list prices: Astra." in said
    assert price_of(find_model("astra")).tiers[1].input == 20_000_000
    assert "astra" in [candidate.model.key for candidate in list_offered()]
    said = operator.post("/admin/chat/languagemodel/", body, follow=True).content.decode()
    assert "New list prices: –." in said


def test_prices_that_cannot_be_read_are_a_sentence(operator: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(price_list.sys, "executable", "/bin/false")
    luna = LanguageModel.objects.get(key="gpt-6-luna")
    body = {"action": "update_prices", "_selected_action": [luna.pk]}
    said = operator.post("/admin/chat/languagemodel/", body, follow=True).content.decode()
    assert "The list prices could not be read" in said
    assert find_model("gpt-6-luna").list_price == luna.list_price


def test_the_list_names_what_each_costs_now(operator: Client):
    rows = operator.get("/admin/chat/languagemodel/").content.decode().split("<tr>")
    [luna] = [row for row in rows if ">gpt-6-luna<" in row]
    assert '<td class="field-input">0.1</td>' in luna


# --- Installations from before ----------------------------------------------------------------------------------------


def as_it_was(key: str, **changed: object) -> None:
    """Make a model what it was before there were list prices."""
    old = dict(zip((f"{name}_price" for name in migration.NAMES), migration.OLD[key], strict=True))
    window = {"context_window": migration.WINDOWS[key][0]} if key in migration.WINDOWS else {}
    LanguageModel.objects.filter(key=key).update(**old | window | {"list_price": None} | changed)


def migrate() -> None:
    migration.follow_list_prices(apps, None)


@pytest.mark.parametrize("key", migration.OLD)
def test_prices_that_were_ours_become_list_prices(key: str):
    seeded = LanguageModel.objects.get(key=key)
    as_it_was(key)
    migrate()
    found = LanguageModel.objects.get(key=key)
    assert (found.input_price, found.output_price, found.cache_read_price, found.cache_write_price) == (None,) * 4
    assert found.is_priced, "nothing is unoffered in between"
    assert found.context_window == seeded.context_window
    if key != "deepseek-flash":  # it was seeded with the price of its busy hours
        then = dt.datetime.fromisoformat(migration.AS_OF).replace(tzinfo=dt.UTC)  # prices change, and the package knows
        assert price_of(found, then).tiers == price_of(seeded, then).tiers
    load_catalog()
    assert price_of(LanguageModel.objects.get(key=key)).tiers == price_of(seeded).tiers


@pytest.mark.parametrize("name", migration.NAMES)
def test_an_operators_own_price_stays_with_all_the_others(name: str):
    as_it_was("gpt-6.1-sol", **{f"{name}_price": 123})
    before = LanguageModel.objects.values().get(key="gpt-6.1-sol")
    migrate()
    assert LanguageModel.objects.values().get(key="gpt-6.1-sol") == before


def test_an_operators_own_window_stays():
    as_it_was("gpt-6.1-sol", context_window=150_000)
    migrate()
    sol = LanguageModel.objects.get(key="gpt-6.1-sol")
    assert (sol.context_window, sol.input_price) == (150_000, None)


def test_a_prompt_beyond_the_border_is_held_at_its_dearer_price():
    """What the windows were kept small for."""
    luna = LanguageModel.objects.get(key="gpt-6-luna")
    assert question_room(luna, 8_192) > 272_000
    below = max_cost(luna, input_tokens=272_000, output_tokens=0)
    assert max_cost(luna, input_tokens=272_001, output_tokens=0) > 1.9 * below


def test_who_publishes_a_price_has_none_in_the_seed():
    for fields in catalog.SEED:
        assert ("input_price" in fields) == (fields["provider"] == "demo")
