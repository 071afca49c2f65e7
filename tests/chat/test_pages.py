"""The chat's pages, as a browser without JavaScript has them."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from billing import metering
from billing.models import BillingAccount, Plan
from billing.periods import raise_to_plan
from chat.llm import recordings
from chat.models import LanguageModel
from core import rows
from history import tree
from history.models import Conversation, Turn, new_id
from history.progress import Outcome, close

pytestmark = pytest.mark.stores


@pytest.fixture
def browser(ana) -> Client:
    """Ana's, in English."""
    ana.locale = "en"
    ana.save()
    client = Client()
    client.force_login(ana)
    return client


def converse(owner_id: int, count: int) -> tuple[Conversation, list[Turn]]:
    """Return a conversation of finished turns."""
    conversation = tree.get_or_create_conversation(owner_id, new_id(), title="Long")
    turns: list[Turn] = []
    for number in range(count):
        turn = Turn(
            pk=new_id(),
            owner_id=owner_id,
            conversation_id=conversation.pk,
            parent_id=turns[-1].pk if turns else None,
            depth=number,
            question=f"Question {number}.",
            answer=f"Answer {number}.",
            status=Turn.Status.COMPLETED,
            requested_model="scripted",
            model="scripted",
            max_output=100,
            cost_micros=1_500,
        )
        turns.append(tree.add_turn(turn))
    return conversation, turns


def shown(answer) -> list[str]:
    return [shown.turn.question for shown in answer.context["turns"]]


def test_a_visitor_is_told_what_this_is(catalog):
    answer = Client().get("/", headers={"Accept-Language": "en"})
    assert answer.status_code == 200
    assert 'href="/accounts/signup/"' in answer.text


def test_a_member_begins_a_chat(browser):
    answer = browser.get("/")
    assert 'data-chat="' in answer.text
    assert "0 of 500 credits used" in answer.text


def test_a_page_of_thirty_turns_takes_six_statements(browser, ana):
    conversation, _turns = converse(ana.pk, 40)
    browser.get(f"/c/{conversation.pk}/")  # the month's period, plans and models are there
    with CaptureQueriesContext(connections["default"]) as ours, CaptureQueriesContext(connections["history"]) as theirs:
        answer = browser.get(f"/c/{conversation.pk}/")
    assert shown(answer) == [f"Question {number}." for number in range(10, 40)]
    most = 6 if rows.speaks_sql(Turn) else 8  # the sidebar is one statement of SQL, and three of MongoDB
    assert len(ours) + len(theirs) <= most, [query["sql"] for query in (*ours, *theirs)]


def test_earlier_turns_are_a_page_and_a_fragment(browser, ana):
    conversation, turns = converse(ana.pk, 70)
    answer = browser.get(f"/c/{conversation.pk}/")
    link = f"/turns/{turns[40].pk}/earlier/"
    assert f'href="{link}"' in answer.text
    page, fragment = browser.get(link), browser.get(link, headers={"HX-Request": "true"})
    assert shown(page) == shown(fragment) == [f"Question {number}." for number in range(10, 40)]
    assert "<html" in page.text
    assert "<html" not in fragment.text
    assert shown(browser.get(f"/turns/{turns[10].pk}/earlier/")) == [f"Question {number}." for number in range(10)]


def test_only_the_branch_that_was_used_last_is_shown(browser, ana):
    conversation, turns = converse(ana.pk, 3)
    again = Turn(
        pk=new_id(),
        owner_id=ana.pk,
        conversation_id=conversation.pk,
        parent_id=turns[0].pk,
        question="Question 1, again.",
        status=Turn.Status.COMPLETED,
        requested_model="scripted",
        max_output=100,
    )
    tree.add_turn(again)
    assert shown(browser.get(f"/c/{conversation.pk}/")) == ["Question 0.", "Question 1, again."]


def test_a_form_asks_and_asks_once(browser, ana):
    conversation_id, turn_id = new_id(), new_id()
    fields = {"text": "One\r\ntwo?", "model": "scripted", "turn_id": str(turn_id)}
    answers = [browser.post(f"/c/{conversation_id}/", fields) for _ in range(2)]
    assert {answer["Location"] for answer in answers} == {f"/c/{conversation_id}/?turn={turn_id}#turn-{turn_id}"}
    [turn] = Turn.objects.all()
    assert (turn.pk, turn.question, turn.owner_id) == (turn_id, "One\ntwo?", ana.pk)
    page = browser.get(f"/c/{conversation_id}/")
    assert '<meta http-equiv="refresh" content="2; url=?t=' in page.text


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({"text": "  "}, 400, "Write something first."),
        ({"text": "x" * 40_000}, 413, "That is longer than your plan allows."),
        ({"text": "Hi", "model": "gpt-2"}, 404, "That model is not offered."),
        ({"text": "Hi", "model": "gpt-6.1-sol"}, 403, "Your plan does not include that."),
    ],
)
def test_a_refusal_is_told_and_loses_nothing(browser, settings, fields, status, sentence):
    settings.OPENAI_API_KEY = "sk-test"
    answer = browser.post(f"/c/{new_id()}/", fields)
    assert answer.status_code == status
    assert sentence in answer.text
    assert answer.context["refusal"].text == fields["text"]
    assert Turn.objects.count() == Conversation.objects.count() == 0


def test_a_used_up_allowance_names_the_moment_in_the_readers_time_zone(browser, ana):
    ana.time_zone = "America/Bogota"
    ana.save()
    plan = Plan.objects.create(key="tiny", name="Tiny", best_tier="strong", rank=5, credits_per_month=0)
    BillingAccount.objects.create(user=ana, plan=plan)
    answer = browser.post(f"/c/{new_id()}/", {"text": "Hi", "model": "scripted"})
    assert answer.status_code == 402
    midnight = (datetime.now(UTC).replace(day=1) + timedelta(days=32)).replace(day=1)
    last_day = midnight - timedelta(days=1)
    assert f"You get new ones on {last_day:%B} {last_day.day}, {last_day.year} at 19:00." in answer.text


def test_a_question_is_asked_again_beside_itself(browser, ana):
    conversation, turns = converse(ana.pk, 2)
    answer = browser.post(f"/c/{conversation.pk}/", {"again": str(turns[1].pk), "model": "scripted"})
    assert answer.status_code == 302
    asked = Turn.objects.exclude(pk__in=[turn.pk for turn in turns]).get()
    assert (asked.question, asked.parent_id) == ("Question 1.", turns[0].pk)


def test_a_form_says_how_hard_to_think(browser, ana):
    LanguageModel.objects.filter(key="scripted").update(efforts="low high")
    browser.post(f"/c/{new_id()}/", {"text": "One", "model": "scripted", "effort": "high"})
    first = Turn.objects.get()
    assert first.effort == "high"
    close(first, Outcome("completed", answer="Two."))
    metering.release(first.pk)
    browser.post(f"/c/{first.conversation_id}/", {"again": str(first.pk), "model": "scripted", "effort": "low"})
    assert Turn.objects.exclude(pk=first.pk).get().effort == "low"


def test_an_effort_of_another_models_list_is_not_followed(browser, ana):
    """Without scripts the page cannot show other levels when another model is chosen."""
    LanguageModel.objects.filter(key="scripted").update(efforts="low high")
    assert browser.post(f"/c/{new_id()}/", {"text": "One", "model": "scripted", "effort": "max"}).status_code == 302
    assert Turn.objects.get().effort == ""


def test_an_open_turn_is_stopped_by_a_form(browser, ana):
    conversation_id, turn_id = new_id(), new_id()
    browser.post(f"/c/{conversation_id}/", {"text": "Hi", "model": "scripted", "turn_id": str(turn_id)})
    answer = browser.post(f"/turns/{turn_id}/stop/")
    assert answer["Location"] == f"/c/{conversation_id}/?turn={turn_id}#turn-{turn_id}"
    assert Turn.objects.get().status == Turn.Status.STOPPED


def test_a_turn_is_a_fragment_for_the_page_and_a_place_for_people(browser, ana):
    conversation, [turn] = converse(ana.pk, 1)
    fragment = browser.get(f"/turns/{turn.pk}/", headers={"HX-Request": "true"})
    assert fragment.text.strip().startswith("<article")
    assert browser.get(f"/turns/{turn.pk}/")["Location"] == f"/c/{conversation.pk}/?turn={turn.pk}#turn-{turn.pk}"


@pytest.mark.parametrize("path", ["/c/{c}/", "/turns/{t}/", "/turns/{t}/earlier/", "/c/{c}/rename/", "/c/{c}/move/"])
def test_what_is_somebody_elses_is_not_there(browser, bo, path):
    conversation, [turn] = converse(bo.pk, 1)
    path = path.format(c=conversation.pk, t=turn.pk)
    assert browser.get(path).status_code == 404
    assert browser.post(path, {"text": "Hi", "title": "Mine"}).status_code in (404, 405)
    assert browser.post(f"/turns/{turn.pk}/stop/").status_code == 404
    assert browser.post(f"/c/{new_id()}/", {"again": str(turn.pk)}).status_code == 404
    conversation.refresh_from_db()
    assert conversation.title == "Long"


def test_a_conversation_is_renamed(browser, ana):
    conversation, _turns = converse(ana.pk, 1)
    path = f"/c/{conversation.pk}/"
    assert browser.post(f"{path}rename/", {"title": "Short"})["Location"] == path
    assert browser.post(f"{path}rename/", {"title": " "}).status_code == 422
    conversation.refresh_from_db()
    assert conversation.title == "Short"


def test_the_list_of_conversations_has_pages(browser, ana):
    for number in range(55):
        tree.get_or_create_conversation(ana.pk, new_id(), title=f"Chat {number}.")
    first = browser.get("/conversations/")
    assert first.context["next"]
    rest = browser.get("/conversations/", {"after": first.context["next"]})
    titles = [row.title for page in (first, rest) for _label, rows in page.context["groups"] for row in rows]
    assert sorted(titles) == sorted(f"Chat {number}." for number in range(55))


@pytest.mark.parametrize(
    ("came_from", "led_to"),
    [
        ("http://testserver/search/?q=a", "/search/?q=a"),
        ("http://testserver//evil.example/x", "/evil.example/x"),
        ("http://evil.example/x", "/conversations/"),
        ("", "/conversations/"),
    ],
)
def test_an_act_leads_back_and_to_no_other_site(browser, ana, came_from, led_to):
    conversation, _turns = converse(ana.pk, 0)
    answer = browser.post("/conversations/change/", {"do": f"pin:{conversation.pk}"}, headers={"Referer": came_from})
    assert (answer.status_code, answer["Location"]) == (302, led_to)


def test_the_overview_has_allowance_conversations_and_models(browser, ana):
    conversation, _turns = converse(ana.pk, 1)
    page = browser.get("/dashboard/").text
    assert "0 of 500 credits used" in page
    assert f'href="/c/{conversation.pk}/"' in page
    assert "Scripted" in page


@pytest.fixture
def only_demo(browser, settings) -> None:
    """A site where nobody has set a key."""
    LanguageModel.objects.exclude(key="demo").delete()
    settings.SCRIPTED_PROVIDER = ""
    settings.DEMO_MODEL_URL = "http://127.0.0.1:1/"


@pytest.mark.parametrize("language", ["es", "en", "pt-br"])
def test_with_the_demo_model_alone_the_starters_are_recorded_examples(browser, only_demo, ana, language):
    ana.locale = language
    ana.save()
    page = browser.get("/").text
    questions = recordings.list_questions(language)
    assert re.findall(r'name="recorded"\s+value="([^"]+)"', page) == questions
    address = f"/c/{new_id()}/"
    asked = browser.post(address, {"turn_id": new_id(), "text": "a draft", "model": "", "recorded": questions[0]})
    assert asked["Location"].startswith(address)
    turn = Turn.objects.get()
    assert (turn.question, turn.requested_model) == (questions[0], "recorded")
    page = browser.get(address).text
    assert "data-recorded" in page
    assert re.search(r'<option value="">', page)  # no model is chosen for the next question
    assert 'value="recorded"' not in page


def test_a_recorded_example_is_asked_again_of_whom_the_person_chose(browser, only_demo):
    address = f"/c/{new_id()}/"
    browser.post(address, {"turn_id": new_id(), "recorded": recordings.list_questions("en")[0]})
    turn = first = Turn.objects.get()
    for model, answers in (("", "recorded"), ("demo", "demo")):
        close(turn, Outcome(Turn.Status.STOPPED))
        metering.release(turn.pk)
        browser.post(address, {"turn_id": (turn_id := new_id()), "again": first.pk, "model": model})
        turn = Turn.objects.get(pk=turn_id)
        assert turn.requested_model == answers


def test_with_a_key_the_starters_are_ordinary_questions(browser):
    page = browser.get("/").text
    assert re.findall(r'name="instead"\s+value="([^"]+)"', page) == recordings.list_questions("en")
    assert "recorded" not in page


def test_operators_are_told_how_to_add_a_key_until_they_close_it(browser, only_demo, ana, settings):
    assert "OPENAI_API_KEY" not in browser.get("/").text
    ana.is_staff = True
    ana.save()
    page = browser.get("/").text
    assert "OPENAI_API_KEY" in page
    assert 'href="/admin/chat/languagemodel/"' in page
    settings.OPENAI_API_KEY = "sk-1"
    assert "OPENAI_API_KEY" not in browser.get("/").text
    settings.OPENAI_API_KEY = ""
    assert browser.post("/key-card/close/")["Location"] == "/"
    assert "OPENAI_API_KEY" not in browser.get("/").text


def test_so_is_who_tries_the_site_on_this_machine(browser, only_demo, settings):
    settings.DEBUG = True
    assert "createsuperuser" in browser.get("/").text
    assert "createsuperuser" not in browser.get("/", REMOTE_ADDR="192.0.2.1").text
    assert "createsuperuser" not in browser.get("/", headers={"X-Forwarded-For": "192.0.2.1"}).text


@pytest.mark.parametrize(
    ("language", "one", "thousands", "moment"),
    [
        ("es", "0 de 1 crédito usado", "de 12.345 créditos usados", r"el (28|29|30|31) de \w+ de \d{4} a las 19:00"),
        ("en", "0 of 1 credit used", "of 12,345 credits used", r"on \w+ (28|29|30|31), \d{4} at 19:00"),
        ("pt-br", "0 de 1 crédito usado", "de 12.345 créditos usados", r"em (28|29|30|31) de \w+ de \d{4} às 19:00"),
    ],
)
def test_numbers_plurals_and_dates_are_those_of_the_language(browser, ana, language, one, thousands, moment):
    ana.locale, ana.time_zone = language, "America/Bogota"
    ana.save()
    plan = Plan.objects.create(key="one", name="One", best_tier="strong", rank=5, credits_per_month=1)
    BillingAccount.objects.update_or_create(user=ana, defaults={"plan": plan})
    page = browser.get("/").text
    assert f">{one}<" in page
    assert re.search(moment, page)
    plan.credits_per_month = 12_345
    plan.save()
    raise_to_plan(plan)
    page = browser.get("/").text
    assert ">0 " in page
    assert f"{thousands}<" in page.replace("\xa0", ".")  # Django's Spanish groups with a space that does not break


def test_after_the_last_turn_there_is_nothing_and_no_error(browser, ana):
    """A tab may ask for what follows a turn that has become the last."""
    _, turns = converse(ana.pk, 40)
    for headers in ({}, {"HX-Request": "true"}):
        answer = browser.get(f"/turns/{turns[-1].pk}/later/", headers=headers)
        assert answer.status_code == 200
        assert "Answer 39." not in answer.content.decode()
