"""The model picker, and what a turn says of Auto and of thinking."""

import re
from collections.abc import Iterator

import pytest
from django.template.loader import render_to_string
from django.test import Client
from django.utils import translation

from accounts.models import User
from billing import entitlements
from billing.models import Plan
from chat.models import LanguageModel
from chat.pages.picker import ModelOption, group_by_tier, list_efforts, list_model_options
from chat.shown.fragments import turn_html
from history import tree
from history.models import Conversation, Turn, new_id

pytestmark = pytest.mark.stores


@pytest.fixture(autouse=True)
def _in_english(settings) -> Iterator[None]:
    settings.OPENAI_API_KEY = settings.ANTHROPIC_API_KEY = "a key"
    with translation.override("en"):
        yield


@pytest.fixture
def browser(ana: User) -> Client:
    """Ana's, in English."""
    ana.locale = "en"
    ana.save()
    client = Client()
    client.force_login(ana)
    return client


def change(key: str, **fields: object) -> LanguageModel:
    model = LanguageModel.objects.get(key=key)
    for name, value in fields.items():
        setattr(model, name, value)
    model.save()
    return model


def choices_of(user: User) -> list[ModelOption]:
    return list_model_options(entitlements.entitlements_of(user.pk))


def choice_of(user: User, key: str) -> ModelOption:
    return next(choice for choice in choices_of(user) if choice.model.key == key)


def test_tiers_and_models_are_in_the_operators_order(ana):
    change("gpt-6.1-sol", position=1)
    groups = group_by_tier(choices_of(ana))
    assert [name for name, _choices in groups] == ["Strong", "Quick", "Balanced"]
    assert [choice.model.key for choice in groups[0][1]] == ["gpt-6.1-sol", "claude-opus-5-5"]
    assert groups[0][1][0].provider == "OpenAI"


def test_a_locked_model_names_the_least_plan_that_has_it(ana):
    Plan.objects.filter(is_default=False).delete()
    for name, rank, tier in (("All", 9, "strong"), ("Premium", 3, "strong"), ("Plus", 2, "mid")):
        Plan.objects.create(key=name.lower(), name=name, rank=rank, best_tier=tier)
    assert choice_of(ana, "claude-opus-5-5").locked == "Not in your plan: Premium has it."
    assert choice_of(ana, "claude-sonnet-5-5").locked == "Not in your plan: Plus has it."
    assert choice_of(ana, "claude-haiku-5-5").locked == ""
    assert choice_of(ana, "claude-haiku-5-5").is_included


def test_a_model_no_plan_has_is_locked_all_the_same(ana):
    Plan.objects.filter(is_default=False).delete()
    assert choice_of(ana, "claude-opus-5-5").locked == "Not in your plan."
    assert not choice_of(ana, "claude-opus-5-5").is_included


@pytest.mark.parametrize(
    ("prices", "shown", "in_spanish"),
    [
        ((100_000, 500_000), "≈ 0.35 credits", "0,35"),  # 1,000 tokens in and 500 out: 100 and 250 micros
        ((600_000, 600_000), "≈ 0.9 credits", "0,9"),
        ((400_000, 1_200_000), "≈ 1 credit", "1"),
        ((4_000_000, 20_000_000), "≈ 14 credits", "14"),
        ((900_000_000, 900_000_000), "≈ 1,400 credits", "1.400"),
        ((0, 0), "", ""),
    ],
)
def test_a_usual_answer_has_a_price(ana, prices, shown, in_spanish):
    change("claude-haiku-5-5", input_price=prices[0], output_price=prices[1])
    assert choice_of(ana, "claude-haiku-5-5").price == shown
    with translation.override("es"):
        assert in_spanish in choice_of(ana, "claude-haiku-5-5").price.replace("\xa0", ".")


def test_the_page_has_the_list_and_the_picker(browser):
    change("claude-haiku-5-5", sees_images=True, reads_pdfs=True)
    premium = Plan.objects.get(key="premium")
    premium.name = "<Premium>"
    premium.save()
    page = browser.get("/").text
    assert re.search(
        r'<option value="claude-opus-5-5"\s+data-label="Claude Opus 5.5" data-efforts="low medium high" disabled>'
        r"\s*Claude Opus 5.5 · not in your plan",
        page,
    )
    assert '<optgroup label="Quick">' in page
    assert "≈ 0.35 credits" not in page  # comes when the picker is opened
    picker = browser.get("/picker/", headers={"HX-Request": "true"}).text
    [haiku] = re.findall(r'data-key="claude-haiku-5-5">(.*?)role="option"', picker, re.S)
    for text in ("Claude Haiku 5.5", "Anthropic", "≈ 0.35 credits", "Sees images", "Reads PDFs", "Thinks before"):
        assert text in haiku
    assert "Not in your plan: &lt;Premium&gt; has it." in picker
    assert browser.get("/picker/").url == "/"


def test_a_model_that_is_unavailable_says_so_and_can_be_chosen(ana, monkeypatch):
    monkeypatch.setattr("chat.pages.picker.silent_models", lambda: frozenset({"claude-haiku-5-5"}))
    choices = list_model_options(entitlements.entitlements_of(ana.pk))
    assert [choice.model.key for choice in choices if choice.is_silent] == ["claude-haiku-5-5"]
    page = render_to_string("chat/_picker_options.html", {"tiers": group_by_tier(choices)})
    assert page.count("It is not answering at the moment.") == 1
    assert next(choice for choice in choices if choice.is_silent).is_included


# --- Effort -----------------------------------------------------------------------------------------------------------


def test_efforts_are_in_words_where_there_are_words(ana):
    change("claude-haiku-5-5", efforts="none low xhigh zippy")
    change("claude-opus-5-5", efforts="")
    levels = [("none", "None"), ("low", "Low"), ("xhigh", "Very high"), ("zippy", "zippy")]
    assert list_efforts(choices_of(ana), "claude-haiku-5-5") == levels
    assert list_efforts(choices_of(ana), "claude-opus-5-5") == list_efforts(choices_of(ana), "") == []


def test_the_page_remembers_model_and_effort_of_the_conversation(browser, ana):
    change("claude-haiku-5-5", efforts="low high")
    page = browser.get("/").text
    assert re.search(r"data-effort\s+disabled", page)
    turn = Turn(pk=new_id(), owner_id=ana.pk, conversation_id=new_id(), question="Hm?", answer="Hm.", max_output=9)
    turn.status, turn.requested_model, turn.effort = Turn.Status.COMPLETED, "claude-haiku-5-5", "high"
    tree.start_conversation(turn)
    page = browser.get(f"/c/{turn.conversation_id}/").text
    assert not re.search(r"data-effort\s+disabled", page)
    assert '<option value="high" selected>High</option>' in page
    assert re.search(r'<option value="claude-haiku-5-5"[^>]* selected>', page)


def test_a_refusal_keeps_model_and_effort(browser, ana):
    change("claude-haiku-5-5", efforts="low high")
    answer = browser.post(f"/c/{new_id()}/", {"text": " ", "model": "claude-haiku-5-5", "effort": "low"})
    assert answer.status_code == 400
    assert '<option value="low" selected>Low</option>' in answer.text


# --- Under the answer -------------------------------------------------------------------------------------------------


def shown(**fields: object) -> str:
    given = {"owner_id": 1, "status": "completed", "answer": "Hi.", "model": "claude-haiku-5-5", **fields}
    return " ".join(re.sub(r"<[^>]+>", " ", turn_html(Turn(**given))).split())


def test_what_auto_chose_and_why_is_said(catalog):
    assert "Auto → Claude Haiku 5.5 short question" in shown(requested_model="auto", route="short")
    assert "Auto → Claude Haiku 5.5" in shown(requested_model="auto", route="no such code")
    assert "no such code" not in shown(requested_model="auto", route="no such code")
    assert "Auto" not in shown(requested_model="claude-haiku-5-5")
    assert "Auto" not in shown(requested_model="auto", model="", status="failed")


@pytest.mark.parametrize(
    ("milliseconds", "summary"),
    [
        (0, "Thoughts"),
        (300, "Thought for 1 s"),
        (12_400, "Thought for 12 s"),
        (59_700, "Thought for 1 min 0 s"),
        (75_000, "Thought for 1 min 15 s"),
    ],
)
def test_how_long_it_thought_is_said(catalog, milliseconds, summary):
    assert f"{summary} Hm." in shown(reasoning="Hm.", reasoning_ms=milliseconds)
    assert "Thinking… Hm." in shown(reasoning="Hm.", reasoning_ms=milliseconds, status="streaming")


@pytest.mark.parametrize("status", ["failed", "interrupted", "stopped", "completed", "streaming"])
def test_another_model_can_be_asked_when_the_answer_has_ended(catalog, status):
    assert ("Ask another model" in shown(status=status)) == (status != "streaming")


def asked_again(ana: User) -> list[Turn]:
    """Return turns that ask the same: one without a word, one that broke off, and one that is complete."""
    turns: list[Turn] = []
    for status, answer in (("failed", ""), ("interrupted", "One **half**"), ("completed", "All of it.")):
        turn = Turn(pk=new_id(), owner_id=ana.pk, conversation_id=turns[0].conversation_id if turns else new_id())
        turn.question, turn.answer, turn.status, turn.max_output = "Hm?", answer, status, 9
        turn.requested_model = turn.model = "claude-haiku-5-5"
        tree.start_conversation(turn)
        turns.append(turn)
    return turns


def test_every_answer_to_a_question_can_be_gone_back_to(browser, ana):
    turns = asked_again(ana)
    address = f"/c/{turns[0].conversation_id}/"
    page = browser.get(address)
    assert [shown.turn.pk for shown in page.context["turns"]] == [turns[2].pk]
    [switcher] = re.findall(r"<div class=\"siblings\".*?</div>", page.text, re.S)
    assert "3 of 3" in switcher
    assert f'value="{turns[1].pk}"' in switcher
    fields = {"turn": str(turns[1].pk)}
    chosen = browser.post(f"{address}branch/", fields)
    assert chosen["Location"] == f"{address}?turn={turns[1].pk}#turn-{turns[1].pk}"
    fragment = browser.post(f"{address}branch/", fields, headers={"HX-Request": "true"})
    for answer in (fragment, browser.get(address), browser.get(chosen["Location"])):
        assert [shown.turn.pk for shown in answer.context["turns"]] == [turns[1].pk]
        assert "2 of 3" in answer.text
        assert "One <strong>half</strong>" in answer.text
    assert "<html" not in fragment.text


def test_a_turn_opens_its_branch(browser, ana):
    turns = asked_again(ana)
    address = f"/c/{turns[0].conversation_id}/"
    page = browser.get(f"{address}?turn={turns[0].pk}")
    assert [shown.turn.pk for shown in page.context["turns"]] == [turns[0].pk]
    assert Conversation.objects.get(pk=turns[0].conversation_id).leaf_id == turns[0].pk
    foreign = asked_again(ana)[0]
    for turn in (foreign.pk, new_id(), "nonsense"):
        assert browser.get(f"{address}?turn={turn}").status_code == 404
        assert browser.post(f"{address}branch/", {"turn": str(turn)}).status_code == 404


def test_a_question_is_edited_on_a_page_of_its_own(browser, ana):
    turns = asked_again(ana)
    address = f"/turns/{turns[0].pk}/edit/"
    assert "<html" not in browser.get(address, headers={"HX-Request": "true"}).text
    page = browser.get(address)
    assert ">Hm?</textarea>" in page.text
    refused = browser.post(address, {"edit": str(turns[0].pk), "text": " "})
    assert (refused.status_code, "Write something first." in refused.text) == (400, True)
    asked = browser.post(address, {"edit": str(turns[0].pk), "text": "Oh?\r\nHm?", "model": "scripted"})
    edited = Turn.objects.get(question="Oh?\nHm?")
    assert (edited.parent_id, edited.conversation_id, edited.seq) == (None, turns[0].conversation_id, 4)
    assert asked["Location"].endswith(f"#turn-{edited.pk}")
