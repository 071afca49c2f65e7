"""Which models are on offer, and which may answer."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module

import pytest
from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection
from pytest_django import Settings

from billing.entitlements import Entitlements
from billing.errors import NotInPlan
from chat.errors import BadEffort, NoModel, UnknownModel
from chat.llm import catalog
from chat.llm.catalog import find_model, list_offered, load_catalog
from chat.llm.selection import AUTO, QuestionProfile, check_effort, choose
from chat.models import LanguageModel

capabilities = import_module("chat.migrations.0004_capabilities_of_known_models")
demo_is_free = import_module("chat.migrations.0007_demo_is_free")
UNTOUCHED = {"sees_images": False, "reads_pdfs": False, "efforts": ""}
SIZES = {"label": "x", "tier": "cheap", "context_window": 8_000, "max_output": 1_000}


@pytest.fixture(autouse=True)
def everything(catalog: None, settings: Settings) -> None:
    """Every provider has a key, but the compatible one."""
    settings.OPENAI_API_KEY = settings.DEEPSEEK_API_KEY = "sk-x"
    settings.DEMO_MODEL_URL = "http://127.0.0.1:9/v1"
    settings.SCRIPTED_PROVIDER = False


def allowed(best_tier: str = "strong") -> Entitlements:
    return Entitlements("p", None, None, None, 1_000, 1_000, best_tier)


def keys(requested: str, best_tier: str = "strong") -> list[str]:
    profile = QuestionProfile(question="hola", min_tokens=10, tokens=10, answer_tokens=100)
    return [candidate.model.key for candidate in choose(requested, allowed(best_tier), profile).candidates]


def test_what_is_offered_is_in_the_operators_order():
    assert [c.model.key for c in list_offered()] == [
        "gpt-6-luna",
        "deepseek-flash",
        "gpt-6.1-terra",
        "gpt-6.1-sol",
        "demo",
    ]
    LanguageModel.objects.get(key="demo").delete()
    sol = LanguageModel.objects.get(key="gpt-6.1-sol")
    sol.position = 1
    sol.save()
    assert [c.model.key for c in list_offered()][0] == "gpt-6.1-sol"


def test_a_provider_without_a_key_offers_nothing(settings: Settings):
    settings.OPENAI_API_KEY = ""
    assert {c.provider.slug for c in list_offered()} == {"deepseek", "demo"}


@pytest.mark.parametrize("change", [{"enabled": False}, {"list_price": None}])
def test_a_model_is_not_offered(change: dict[str, object]):
    luna = LanguageModel.objects.get(key="gpt-6-luna")
    for name, value in change.items():
        setattr(luna, name, value)
    luna.save()
    assert "gpt-6-luna" not in [c.model.key for c in list_offered()]
    with pytest.raises(UnknownModel):
        keys("gpt-6-luna")
    assert find_model("gpt-6-luna") == luna


@pytest.mark.parametrize(("own", "is_offered"), [("input", False), ("output", False), ("both", True)])
def test_without_a_list_price_the_operators_own_must_be_whole(own: str, is_offered: bool):
    luna = LanguageModel.objects.get(key="gpt-6-luna")
    luna.list_price = None
    for name in ("input", "output") if own == "both" else (own,):
        setattr(luna, f"{name}_price", 1)
    luna.save()
    assert ("gpt-6-luna" in [c.model.key for c in list_offered()]) == is_offered


def test_a_named_model_is_never_replaced():
    assert keys("gpt-6.1-sol") == ["gpt-6.1-sol"]


def test_an_unknown_model():
    with pytest.raises(UnknownModel):
        keys("gpt-2")
    assert find_model("gpt-2") is None


def test_a_model_above_the_plan():
    with pytest.raises(NotInPlan):
        keys("gpt-6.1-sol", "mid")


@pytest.mark.parametrize("requested", ["", AUTO])
def test_without_a_name_it_is_what_the_plan_includes(requested: str):
    assert set(keys(requested, "cheap")) == {"gpt-6-luna", "deepseek-flash"}


def test_without_a_name_it_is_the_default(settings: Settings):
    settings.DEFAULT_LLM = "deepseek-flash"
    assert keys("") == ["deepseek-flash"]
    assert len(keys(AUTO)) > 1
    assert keys("gpt-6.1-sol") == ["gpt-6.1-sol"]


def test_a_default_above_the_plan_is_not_the_default(settings: Settings):
    settings.DEFAULT_LLM = "gpt-6.1-sol"
    assert set(keys("", "cheap")) == {"gpt-6-luna", "deepseek-flash"}


def test_a_default_that_is_not_offered_is_not_the_default(settings: Settings):
    settings.DEFAULT_LLM = "gpt-2"
    assert set(keys("", "cheap")) == {"gpt-6-luna", "deepseek-flash"}


@pytest.mark.parametrize("requested", ["", AUTO])
def test_the_demo_is_taken_only_when_it_is_alone(requested: str, settings: Settings):
    assert "demo" not in keys(requested)
    settings.OPENAI_API_KEY = settings.DEEPSEEK_API_KEY = ""
    assert keys(requested) == ["demo"]


def test_a_default_may_be_the_demo(settings: Settings):
    settings.DEFAULT_LLM = "demo"
    assert keys("") == ["demo"]


def test_no_model_at_all(settings: Settings):
    settings.OPENAI_API_KEY = settings.DEEPSEEK_API_KEY = settings.DEMO_MODEL_URL = ""
    with pytest.raises(NoModel):
        keys("")
    with pytest.raises(NoModel):
        keys(AUTO)


def test_models_of_the_environment_follow_it(settings: Settings):
    settings.OPENAI_COMPATIBLE_BASE_URL = "http://127.0.0.1:9/v1"
    settings.OPENAI_COMPATIBLE_MODELS = ["llama", "qwen"]
    settings.OPENAI_COMPATIBLE_INPUT_PRICE = 0.25
    load_catalog()
    llama = find_model("llama")
    assert (llama.input_price, llama.output_price, llama.is_free, llama.max_output) == (250_000, 0, False, 16_384)
    assert keys("qwen") == ["qwen"]
    settings.OPENAI_COMPATIBLE_MODELS = ["qwen"]
    load_catalog()
    with pytest.raises(UnknownModel):
        keys("llama")
    settings.OPENAI_COMPATIBLE_MODELS = ["llama", "qwen"]
    load_catalog()
    assert keys("llama") == ["llama"]


def test_the_demo_model_is_free():
    assert find_model("demo").is_free


@pytest.mark.parametrize(
    ("before", "after"),
    [((1_000_000, 10_000_000), (0, 0)), ((1_000_000, 1), (1_000_000, 1)), ((None, 10_000_000), (None, 10_000_000))],
)
def test_the_demo_models_price_is_taken_back_where_it_came_with_it(
    before: tuple[int | None, int], after: tuple[int | None, int]
):
    """An operator's own price stays, and so does every other model's."""
    prices = {"input_price": before[0], "output_price": before[1]}
    LanguageModel.objects.filter(key__in=("demo", "gpt-6-luna")).update(**prices)
    with connection.schema_editor() as editor:
        demo_is_free.set_free(apps, editor)
    assert LanguageModel.objects.values_list("input_price", "output_price").get(key="demo") == after
    assert LanguageModel.objects.values_list("input_price", "output_price").get(key="gpt-6-luna") == before


def test_what_an_operator_changed_stays():
    LanguageModel.objects.filter(key="gpt-6-luna").update(input_price=7, label="Luna")
    load_catalog()
    assert (find_model("gpt-6-luna").input_price, find_model("gpt-6-luna").label) == (7, "Luna")


@pytest.mark.parametrize(
    ("requested", "effort"),
    [
        *(("gpt-6-luna", ""), ("gpt-6-luna", "low"), ("gpt-6-luna", "high"), ("deepseek-flash", "none"), ("demo", "")),
        *((AUTO, "medium"), (AUTO, "none"), ("", "high"), (AUTO, "")),
    ],
)
def test_an_effort_that_is_known(requested: str, effort: str):
    check_effort(effort, requested)


@pytest.mark.parametrize(
    ("requested", "effort"),
    [("gpt-6-luna", "none"), ("gpt-6-luna", "LOW"), ("gpt-6-luna", "low medium"), ("deepseek-flash", "low")]
    + [("demo", "low"), (AUTO, "enormous"), ("", "enormous"), (AUTO, " ")],
)
def test_an_effort_nobody_knows_is_refused(requested: str, effort: str):
    with pytest.raises(BadEffort) as refused:
        check_effort(effort, requested)
    assert (refused.value.code, refused.value.status) == ("bad_effort", 422)


def test_what_the_seeded_models_can_do():
    can = {model.key: (model.sees_images, model.reads_pdfs, model.efforts) for model in LanguageModel.objects.all()}
    everything = (True, True, "low medium high")
    assert {key for key, found in can.items() if found == everything} == {
        *("gpt-6-luna", "gpt-6.1-terra", "gpt-6.1-sol", "claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"),
        *("gemini-3.5-flash-lite", "gemini-3.8-flash", "gemini-4-argon"),
    }
    assert can["deepseek-flash"] == (True, False, "none high")
    assert can["demo"] == (False, False, "")


def test_models_of_openai_take_the_new_name_of_the_cap():
    names = LanguageModel.objects.filter(provider="openai").values_list("max_tokens_parameter", flat=True)
    assert set(names) == {"max_completion_tokens"}


def test_an_effort_too_long_for_a_turn_is_refused():
    luna = LanguageModel.objects.get(key="gpt-6-luna")
    luna.efforts = "low extraordinary"
    with pytest.raises(ValidationError) as refused:
        luna.full_clean()
    assert set(refused.value.message_dict) == {"efforts"}


def test_models_of_an_older_installation_learn_what_they_can_do_once():
    """As the migration finds them: rows as they were before the fields, and one that the operator has changed."""
    LanguageModel.objects.filter(key="gpt-6-luna").update(**UNTOUCHED)
    LanguageModel.objects.filter(key="deepseek-flash").update(**UNTOUCHED)
    LanguageModel.objects.filter(key="gpt-6.1-sol").update(**UNTOUCHED | {"efforts": "max"})
    LanguageModel.objects.create(
        key="luna-elsewhere", provider="compatible", provider_model="gpt-6-luna", **SIZES, **UNTOUCHED
    )
    with connection.schema_editor() as editor:
        capabilities.tell(apps, editor)
    assert [find(key) for key in ("gpt-6-luna", "deepseek-flash", "gpt-6.1-sol", "luna-elsewhere")] == [
        (True, True, "low medium high"),
        (True, False, "none high"),
        (False, False, "max"),
        (False, False, ""),
    ]


def find(key: str) -> tuple[bool, bool, str]:
    model = LanguageModel.objects.get(key=key)
    return model.sees_images, model.reads_pdfs, model.efforts


def test_every_seeded_model_is_priced_and_valid():
    seeded = LanguageModel.objects.exclude(provider="scripted")
    assert {model.key for model in seeded} == {fields["key"] for fields in catalog.SEED}
    for model in seeded:
        model.full_clean()
        assert model.is_priced


def test_every_provider_of_the_seed_is_one_that_can_be_configured(settings: Settings):
    settings.OPENAI_API_KEY = settings.ANTHROPIC_API_KEY = settings.GEMINI_API_KEY = settings.DEEPSEEK_API_KEY = "k"
    settings.DEMO_MODEL_URL = "http://127.0.0.1:1/v1"
    assert {fields["key"] for fields in catalog.SEED} <= {candidate.model.key for candidate in list_offered()}


@pytest.mark.parametrize("field", ["input_price", "output_price"])
@pytest.mark.parametrize("price", [0, -1, 1_000_000_001])
def test_a_paid_model_is_never_free_nor_absurdly_dear(field: str, price: int):
    haiku = LanguageModel.objects.get(key="claude-haiku-5-5")
    setattr(haiku, field, price)
    with pytest.raises(ValidationError) as refused:
        haiku.full_clean()
    assert set(refused.value.message_dict) == {field}


def test_the_catalogue_is_read_once(django_assert_num_queries: Callable[..., AbstractContextManager[object]]):
    list_offered()
    with django_assert_num_queries(0):
        list_offered()
        find_model("gpt-6-luna")


def test_an_answer_longer_than_the_window_cannot_be_saved():
    luna = LanguageModel.objects.get(key="gpt-6-luna")
    luna.max_output = luna.context_window
    with pytest.raises(ValidationError):
        luna.full_clean()
    with pytest.raises(IntegrityError):
        luna.save()
