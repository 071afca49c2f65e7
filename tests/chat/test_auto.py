"""Auto: who is chosen, why, and who never is."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from django.test import override_settings
from django.utils import translation
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pytest_django import Settings

from bench import auto as figures
from billing.entitlements import Entitlements
from billing.errors import NotInPlan, SpendLimitReached
from chat.errors import ContextExceeded, NoModel, NoPdfText, NoVision, UnknownModel
from chat.llm import catalog, selection
from chat.llm.catalog import Candidate
from chat.llm.difficulty import Route, judge, route_label
from chat.llm.pricing import max_cost, question_room
from chat.llm.providers.base import Provider
from chat.llm.selection import AUTO, QuestionProfile, Selection, choose, decode_candidates, encode_candidates, route
from chat.models import LanguageModel

EASY = "¿Cuál es la capital de Mongolia?"
ORDINARY = "Write a Python function that groups a list of orders by month."
HARD = "Prove that there are infinitely many primes of the form 4k + 3."

PRICES = {"demo": 1_000_000, "cheap": 100_000, "mid": 1_000_000, "strong": 4_000_000}


def candidate(key: str, tier: str = "cheap", *, provider: str = "openai", price: int = -1, **fields: Any) -> Candidate:
    """Return a model; its output costs five times its input."""
    price = PRICES[tier] if price < 0 else price
    defaults = {"context_window": 100_000, "max_output": 10_000, "input_price": price, "output_price": price * 5}
    model = LanguageModel(key=key, provider=provider, provider_model=key, label=key, tier=tier, **(defaults | fields))
    return Candidate(model, Provider(slug=provider, name=provider, adapter="scripted", base_url=""))


def allowed(best_tier: str = "strong") -> Entitlements:
    return Entitlements("p", None, None, None, 100_000, 4_096, best_tier)


def asked(question: str = EASY, **fields: Any) -> QuestionProfile:
    return QuestionProfile(question=question, **({"least_tokens": 50, "tokens": 50, "answer_tokens": 1_000} | fields))


def keys(choice: Selection) -> list[str]:
    return [found.model.key for found in choice.candidates]


def pick(
    offered: list[Candidate], question: str = EASY, *, best_tier: str = "strong", **fields: Any
) -> tuple[str, str]:
    """Return who is first, and why."""
    hints = {name: frozenset(fields.pop(name, ())) for name in ("unavailable", "stopped")}
    choice = route(offered, allowed(best_tier), asked(question, **fields), **hints)
    return choice.candidates[0].model.key, str(choice.route)


LADDER = [
    candidate("quick"),
    candidate("balanced", "mid", provider="anthropic"),
    candidate("best", "strong", provider="gemini"),
]
"""One model a tier. An answer of 1,000 tokens is 505, 5,050 and 20,200 micros."""
A_QUICK, A_BALANCED, A_BEST = (max_cost(one.model, input_tokens=50, output_tokens=1_000) for one in LADDER)


# --- How hard a question is -------------------------------------------------------------------------------------------


def test_the_tier_follows_the_question():
    assert pick(LADDER, EASY) == ("quick", "short")
    assert pick(LADDER, ORDINARY) == ("balanced", "code")
    assert pick(LADDER, HARD) == ("best", "math")


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ("```\nfor (;;) {\n```", Route.CODE),
        (r"¿Cuánto vale $\int_0^1 x^2\,dx$?", Route.MATH),
        ("Resuelve x² − 5x + 6 = 0", Route.MATH),
        ("Demuestra que la raíz de 2 es irracional.", Route.MATH),
        ("Prove que a raiz de 2 é irracional.", Route.MATH),
        ("Analiza los riesgos y las alternativas de fusionar dos empresas.", Route.ANALYSIS),
        ("Escreva uma carta para o síndico sobre o barulho.", Route.WRITING),
        ("palabra " * 200, Route.LONG),
        (
            "请帮我写一封邮件给我的房东，告诉他浴室的墙壁已经漏水三个月了，希望他尽快派人来修理，语气要礼貌但是坚定。",
            Route.LANGUAGE,
        ),
        ("¿Cuánto cuesta un café en Lisboa?", Route.SHORT),
    ],
)
def test_a_question_says_why(question: str, why: Route):
    assert judge(question).route == why


@pytest.mark.parametrize(
    "question",
    [
        "How can I prove to my landlord that I paid the rent?",
        "What does “proof of address” mean?",
        "¿Qué prueba puedo llevar a la comisaría?",
        "is it affect or effect in: our plans changed",
    ],
)
def test_a_word_alone_makes_no_proof(question: str):
    assert judge(question).tier != LanguageModel.Tier.STRONG


def test_what_was_pasted_is_not_what_is_wanted():
    """The words in the middle of a document are its author's."""
    pasted = "Analyse the risks, prove that the theorem holds, and evaluate alternatives.\n" * 40
    assert judge(f"{'Dear all. ' * 200}{pasted}{'Kind regards. ' * 200}").tier == LanguageModel.Tier.MID


def test_code_is_not_read_as_prose():
    assert judge('Translate the string:\n```\n"analyse evaluate risk hypothesis argument"\n```').tier != "strong"


def test_an_image_makes_a_question_a_little_harder_and_is_the_reason():
    assert judge("What is this?", has_images=True).route == Route.IMAGE
    assert judge("Explain how this works", has_images=True).tier == LanguageModel.Tier.MID


@pytest.mark.parametrize(
    "text", ["", " ", "\n" * 100, "😀", "a" * 100_000, "$" * 5_000, "`" * 5_000, "select " * 5_000]
)
def test_any_text_has_a_verdict(text: str):
    assert judge(text).route in Route


@pytest.mark.parametrize("code", Route.values)
def test_every_reason_has_words_and_fits_its_column(code: str):
    assert route_label(code)
    assert len(code) <= 20


def test_no_reason_has_no_words():
    assert route_label("") == route_label("gone") == ""
    with translation.override("en"):
        assert route_label("short") == "short question"


# --- Who cannot answer ------------------------------------------------------------------------------------------------


def test_what_the_plan_does_not_include_is_not_chosen():
    assert pick(LADDER, HARD, best_tier="mid")[0] == "balanced"
    assert pick(LADDER, HARD, best_tier="cheap") == ("quick", "only_one")


def test_a_plan_without_any_of_them():
    with pytest.raises(NoModel):
        pick(LADDER[1:], best_tier="cheap")
    with pytest.raises(NoModel):
        pick([])


def test_images_go_to_who_sees_them():
    seeing = candidate("seeing", "strong", sees_images=True)
    assert pick([*LADDER, seeing], has_images=True) == ("seeing", "only_one")
    with pytest.raises(NotInPlan):
        pick([*LADDER, seeing], has_images=True, best_tier="mid")
    with pytest.raises(NoVision):
        pick(LADDER, has_images=True)


def test_a_default_that_does_not_see_leaves_images_to_auto(settings: Settings):
    seeing, blind = candidate("seeing", "strong", sees_images=True), candidate("blind")
    settings.DEFAULT_LLM = "blind"
    with mock.patch.object(selection, "list_offered", return_value=[blind, seeing]):
        assert keys(choose("", allowed(), asked())) == ["blind"]
        assert keys(choose("", allowed(), asked(has_images=True))) == ["seeing"]


def test_scans_go_to_who_reads_pdfs():
    """They hold no text for the others."""
    reading = candidate("reading", "strong", reads_pdfs=True)
    assert pick([*LADDER, reading], has_pdfs=True, has_scans=True)[0] == "reading"
    with pytest.raises(NoPdfText):
        pick(LADDER, has_pdfs=True, has_scans=True)


def test_pdfs_go_to_who_reads_them_if_there_is_one():
    reading = candidate("reading", "cheap", price=200_000, reads_pdfs=True)
    assert pick([*LADDER, reading])[0] == "quick"
    assert pick([*LADDER, reading], has_pdfs=True)[0] == "reading"
    assert pick(LADDER, has_pdfs=True)[0] == "quick"


def test_a_question_goes_to_a_window_it_fits():
    wide = candidate("wide", "mid", context_window=1_000_000)
    assert pick([*LADDER, wide], least_tokens=200_000, tokens=200_000) == ("wide", "only_one")
    with pytest.raises(ContextExceeded):
        pick(LADDER, least_tokens=200_000, tokens=200_000)


def test_a_conversation_goes_to_a_window_that_holds_all_of_it_if_there_is_one():
    wide = candidate("wide", "mid", context_window=1_000_000)
    assert pick([*LADDER, wide], tokens=200_000)[0] == "wide"
    assert pick(LADDER, tokens=200_000)[0] == "quick"  # what does not fit is left out


def test_a_provider_that_reached_its_limit_is_not_chosen():
    assert pick(LADDER, stopped=["openai"])[0] == "balanced"
    with pytest.raises(SpendLimitReached):
        pick(LADDER, stopped=["openai", "anthropic", "gemini"])


def test_what_is_free_has_no_limit():
    assert pick([candidate("ours", price=0)], stopped=["openai"])[0] == "ours"


def test_the_demo_is_not_chosen_beside_others():
    demo = candidate("demo", "demo", provider="demo", price=0)
    assert "demo" not in keys(route([demo, *LADDER], allowed(), asked(left_micros=0)))
    assert pick([demo, *LADDER], stopped=["openai"])[0] != "demo"
    assert pick([demo])[0] == "demo"


# --- Who should not ---------------------------------------------------------------------------------------------------


def test_what_fails_at_the_moment_is_avoided():
    twin = candidate("twin", price=200_000, provider="deepseek")
    assert pick([*LADDER, twin], unavailable=["quick"]) == ("twin", "short")
    assert pick(LADDER, unavailable=["quick"])[0] == "balanced"
    assert "quick" not in keys(route(LADDER, allowed(), asked(), unavailable=frozenset({"quick"})))


def test_when_all_of_them_fail_they_are_tried_all_the_same():
    assert pick(LADDER, unavailable=["quick", "balanced", "best"]) == ("quick", "short")


def test_the_cheapest_of_a_tier_is_chosen():
    twins = [candidate("dear", price=300_000), candidate("cheap", price=200_000), candidate("same", price=200_000)]
    assert pick(twins)[0] == "cheap"  # of two that cost the same, the operator's first


def test_a_tier_that_nobody_is_of_is_the_next_below_or_else_above():
    quick, balanced, best = LADDER
    assert pick([quick, best], ORDINARY)[0] == "quick"
    assert pick([balanced, best], EASY)[0] == "balanced"
    assert pick([quick, balanced], HARD)[0] == "balanced"


# --- The conversation -------------------------------------------------------------------------------------------------


def test_a_conversation_goes_on_with_the_model_it_had():
    assert pick(LADDER, "¿y en verano?", last_model="balanced") == ("balanced", "follow_up")
    assert pick(LADDER, ORDINARY, last_model="balanced") == ("balanced", "follow_up")


def test_unless_the_question_wants_more():
    assert pick(LADDER, HARD, last_model="balanced") == ("best", "math")


@pytest.mark.parametrize(
    "change",
    [
        {"unavailable": ["best"]},
        {"stopped": ["gemini"]},
        {"best_tier": "mid"},
        {"left_micros": 2 * A_BEST},
        {"last_model": "gone"},
        {"last_model": ""},
    ],
)
def test_or_the_model_cannot_go_on(change: dict[str, Any]):
    assert pick(LADDER, EASY, **({"last_model": "best"} | change)) == ("quick", "short")


def test_a_model_too_small_for_what_was_said_since_is_left():
    wide = candidate("wide", "cheap", context_window=1_000_000)
    assert pick([*LADDER, wide], tokens=150_000, last_model="quick") == ("wide", "short")


# --- Credits ----------------------------------------------------------------------------------------------------------


def test_ample_credits_change_nothing():
    assert pick(LADDER, HARD, left_micros=3 * A_BEST) == ("best", "math")


def test_when_credits_run_low_the_next_tier_below_is_chosen():
    assert pick(LADDER, HARD, left_micros=3 * A_BEST - 1) == ("balanced", "low_credits")
    assert pick(LADDER, ORDINARY, left_micros=2 * A_BALANCED) == ("quick", "low_credits")


def test_at_the_edge_the_cheapest_tier_is_chosen():
    assert pick(LADDER, HARD, left_micros=A_BEST - 1) == ("quick", "last_credits")
    assert pick(LADDER, ORDINARY, left_micros=A_BALANCED - 1) == ("quick", "last_credits")


def test_who_wanted_the_cheapest_has_it_to_the_end():
    assert pick(LADDER, EASY, left_micros=A_QUICK) == ("quick", "short")


@pytest.mark.parametrize("left", [A_QUICK - 1, 0, -5_000])
def test_what_pays_for_nobody_is_offered_for_the_ledger_to_refuse(left: int):
    assert pick(LADDER, HARD, left_micros=left)[0] == "quick"


def test_what_is_free_is_still_there_when_credits_are_not():
    ours = candidate("ours", provider="compatible", price=0)
    assert pick([*LADDER, ours], HARD, left_micros=0) == ("ours", "last_credits")


def test_a_lower_tier_that_costs_more_saves_nothing():
    pair = [candidate("odd", "cheap", price=2_000_000), candidate("balanced", "mid")]
    assert pick(pair, ORDINARY, left_micros=2 * A_BALANCED) == ("balanced", "code")


# --- Who stands in ----------------------------------------------------------------------------------------------------


def test_who_stands_in_is_near_and_of_another_provider():
    offered = [
        candidate("first", "mid"),
        candidate("sister", "mid", price=1_100_000),
        candidate("other", "mid", provider="gemini", price=1_200_000),
        candidate("quick", "cheap", provider="deepseek"),
    ]
    assert keys(route(offered, allowed(), asked(ORDINARY))) == ["first", "other", "quick"]


def test_who_stands_in_costs_about_the_same():
    """The reservation is the dearest's."""
    offered = [candidate("first"), candidate("same", provider="gemini", price=500_000), *LADDER[1:]]
    assert keys(route(offered, allowed(), asked())) == ["first", "same"]


def test_when_nobody_is_that_cheap_somebody_stands_in_who_can_be_paid():
    assert keys(route(LADDER, allowed(), asked())) == ["quick", "balanced"]
    assert keys(route(LADDER, allowed(), asked(left_micros=3 * A_BALANCED))) == ["quick", "balanced"]
    assert keys(route(LADDER, allowed(), asked(left_micros=3 * A_BALANCED - 1))) == ["quick"]


def test_who_was_spared_does_not_stand_in_for_who_saves():
    chosen = route(LADDER[1:], allowed(), asked(HARD, left_micros=3 * A_BEST - 1))
    assert (keys(chosen), chosen.route) == (["balanced"], "low_credits")


def test_who_cannot_be_paid_does_not_stand_in():
    """The reservation would be refused."""
    pair = [candidate("first"), candidate("twin", provider="gemini", price=150_000)]
    assert keys(route(pair, allowed(), asked(left_micros=A_QUICK))) == ["first"]
    assert keys(route(pair, allowed(), asked(left_micros=2 * A_QUICK))) == ["first", "twin"]


def test_who_answers_much_shorter_does_not_stand_in():
    """The longest answer is what all of them can give."""
    offered = [candidate("first"), candidate("terse", provider="gemini", max_output=300)]
    assert keys(route(offered, allowed(), asked())) == ["first"]


# --- What a turn keeps ------------------------------------------------------------------------------------------------


@pytest.fixture
def offering(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Candidate]], None]:
    return lambda offered: monkeypatch.setattr(selection, "list_offered", lambda: offered)


@pytest.mark.parametrize("key", ["gpt-6.1-terra", "org/llama3:8b@q4", "my model", "a%20b", "modèle+1,5"])
def test_keys_are_kept_whatever_they_are(key: str, offering: Callable[[list[Candidate]], None]):
    offered = [candidate("z"), candidate(key), candidate("a b")]
    offering(offered)
    chosen = [offered[1], offered[2], offered[0]]
    assert decode_candidates(encode_candidates(chosen), allowed()) == chosen


def test_who_was_withdrawn_or_left_the_plan_is_not_recalled(offering: Callable[[list[Candidate]], None]):
    offering(LADDER[:2])
    assert [one.model.key for one in decode_candidates("best balanced quick", allowed("cheap"))] == ["quick"]
    with pytest.raises(NoModel):
        decode_candidates("best balanced", allowed("cheap"))


# --- Whatever the catalogue, the plan, the credits and the history ----------------------------------------------------

PROVIDERS = ("openai", "anthropic", "gemini", "deepseek", "compatible")
SWITCHES = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "DEEPSEEK_API_KEY", "OPENAI_COMPATIBLE_BASE_URL")
NAMES = [f"m{number}" for number in range(8)]
QUESTIONS = [EASY, ORDINARY, HARD, "", "x" * 4_000, "```\ncode;\n```"]
prices = st.one_of(st.none(), st.sampled_from([0, 100_000, 1_000_000, 20_000_000]), st.integers(0, 30_000_000))


@st.composite
def rows(draw: st.DrawFn) -> list[LanguageModel]:
    return [
        LanguageModel(
            key=name,
            provider=draw(st.sampled_from(PROVIDERS)),
            provider_model=name,
            label=name,
            tier=draw(st.sampled_from(selection.TIERS)),
            enabled=draw(st.integers(0, 4)) > 0,
            context_window=draw(st.sampled_from([2_048, 32_768, 1_000_000])),
            max_output=draw(st.sampled_from([256, 1_000, 2_000])),
            input_price=draw(prices),
            output_price=draw(prices),
            sees_images=draw(st.booleans()),
            reads_pdfs=draw(st.booleans()),
        )
        for name in draw(st.lists(st.sampled_from(NAMES), unique=True))
    ]


@st.composite
def asks(draw: st.DrawFn) -> QuestionProfile:
    least = draw(st.sampled_from([10, 1_500, 40_000, 2_000_000]))
    return QuestionProfile(
        question=draw(st.sampled_from(QUESTIONS)),
        least_tokens=least,
        tokens=least + draw(st.sampled_from([0, 5_000, 100_000])),
        answer_tokens=draw(st.sampled_from([1, 500, 4_096])),
        last_model=draw(st.sampled_from(["", *NAMES])),
        has_images=draw(st.booleans()),
        has_pdfs=draw(st.booleans()),
        has_scans=draw(st.booleans()),
        left_micros=draw(st.one_of(st.none(), st.integers(-1_000, 100_000))),
    )


def costs(model: LanguageModel, ask: QuestionProfile) -> int:
    room = question_room(model, min(ask.answer_tokens, model.max_output))
    tokens, longest = min(ask.tokens, room), min(ask.answer_tokens, model.max_output)
    return max_cost(model, input_tokens=tokens, output_tokens=longest)


@settings(max_examples=400)
@given(
    catalogue=rows(),
    configured=st.frozensets(st.sampled_from(SWITCHES)),
    best_tier=st.sampled_from(selection.TIERS),
    ask=asks(),
    requested=st.sampled_from(["", AUTO, *NAMES]),
    default=st.sampled_from(["", *NAMES]),
    unavailable=st.frozensets(st.sampled_from(NAMES)),
    stopped=st.frozensets(st.sampled_from(PROVIDERS)),
)
@example(
    catalogue=[one.model for one in LADDER],
    configured=frozenset(SWITCHES),
    best_tier="mid",
    ask=asked(HARD),
    requested=AUTO,
    default="",
    unavailable=frozenset(),
    stopped=frozenset(),
)
def test_nobody_is_ever_chosen_who_may_not_answer(
    catalogue: list[LanguageModel],
    configured: frozenset[str],
    best_tier: str,
    ask: QuestionProfile,
    requested: str,
    default: str,
    unavailable: frozenset[str],
    stopped: frozenset[str],
):
    plan = allowed(best_tier)
    keyed = {PROVIDERS[SWITCHES.index(switch)] for switch in configured}
    switches = {switch: "x" if switch in configured else "" for switch in SWITCHES}
    table = SimpleNamespace(get=lambda: catalogue)

    def may(model: LanguageModel) -> bool:
        is_there = model.enabled and model.input_price is not None and model.output_price is not None
        return is_there and model.provider in keyed and plan.includes_tier(model.tier)

    def can(model: LanguageModel) -> bool:
        is_paid = model.input_price or model.output_price
        fits = question_room(model, min(ask.answer_tokens, model.max_output)) >= ask.least_tokens
        sees = (model.sees_images or not ask.has_images) and (model.reads_pdfs or not ask.has_scans)
        return may(model) and fits and sees and not (model.provider in stopped and is_paid)

    def pays(model: LanguageModel) -> bool:
        return ask.left_micros is None or costs(model, ask) <= ask.left_micros

    included = list(filter(may, catalogue))
    if any(model.tier != "demo" for model in included):
        included = [model for model in included if model.tier != "demo"]
    able = list(filter(can, included))

    with (
        mock.patch.object(catalog, "_models", table),
        override_settings(**switches, DEFAULT_LLM=default, SCRIPTED_PROVIDER=False, DEMO_MODEL_URL=""),
    ):
        try:
            choice = choose(requested, plan, ask, unavailable=unavailable, stopped=stopped)
        except (NoModel, NotInPlan, UnknownModel, ContextExceeded, SpendLimitReached, NoVision, NoPdfText):
            assert not able or requested in NAMES
            return
        assert choice == choose(requested, plan, ask, unavailable=unavailable, stopped=stopped)
        chosen = [one.model for one in choice.candidates]
        assert all(map(may, chosen))
        assert decode_candidates(encode_candidates(choice.candidates), plan) == choice.candidates
    if requested in NAMES:
        assert [model.key for model in chosen] == [requested]
    if choice.route is None:
        assert [model.key for model in chosen] in ([requested], [default])
        return
    assert requested in ("", AUTO)
    assert set(chosen_keys := [model.key for model in chosen]) <= {model.key for model in able}
    assert len(set(chosen_keys)) == len(chosen_keys) <= selection.MAX_CANDIDATES
    if any(map(pays, able)):
        assert all(map(pays, chosen))
    if unavailable & set(chosen_keys):
        assert all(model.key in unavailable or not pays(model) for model in able)


# --- The corpus -------------------------------------------------------------------------------------------------------


def test_the_corpus_is_large_even_and_has_nothing_twice():
    corpus = figures.load_corpus()
    assert len(corpus) >= 150
    assert len({one.text for one in corpus}) == len(corpus)
    for language in ("es", "en", "pt"):
        assert abs(sum(one.language == language for one in corpus) - len(corpus) / 3) < 5
    assert {one.tier for one in corpus} == set(figures.TIERS)


def test_auto_beats_always_the_middle_tier_on_the_half_that_was_held_back():
    _, held = figures.halves(figures.load_corpus())
    counts = figures.count_picks(held)
    print(figures.report())
    assert figures.accuracy(counts) >= figures.baseline_accuracy(held) + 0.15
    for language in ("es", "en", "pt"):
        part = [one for one in held if one.language == language]
        assert figures.accuracy(figures.count_picks(part)) >= figures.baseline_accuracy(part) + 0.15
