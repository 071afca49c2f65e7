"""Recorded examples: what they are, how they are played, and that nobody pays for them."""

import re

import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse
from django.utils import translation
from redis.asyncio import Redis

from accounts.models import User
from billing import metering
from billing.errors import TooManyAtOnce
from billing.models import Plan, Reservation, UsageRecord
from chat.errors import UnknownModel
from chat.llm import recordings
from chat.llm.catalog import RECORDED
from chat.shown.fragments import turn_html
from chat.turns import log, rescue
from chat.turns.known_turns import BeingWritten
from chat.turns.log import Entry, EntryKind, encode_begun
from chat.turns.rescue import outcome_from_log, read_remains
from chat.turns.runner import Runner
from chat.turns.stopping import stop_turn
from core.threads import in_thread
from history import progress
from history.models import Turn
from history.queries import Query
from history.rendering import render_markdown
from history.search import search_turns
from tests.chat.asking import aask, ask, closed, eventually, question, saved
from tests.chat.live import page_of

LANGUAGES = [language for language, _name in settings.LANGUAGES]
QUESTION = recordings.list_questions("es")[0]
PLAYED = {"model": "recorded", "text": QUESTION}


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_has_one_with_code_one_with_a_table_and_one_with_mathematics(language: str):
    answers = [recordings.get_answer(question) for question in recordings.list_questions(language)]
    shown = [render_markdown(answer, "turn") for answer in answers]
    assert len(shown) == 4
    for sign in ("<pre", "<table", 'display="block"'):
        assert any(sign in html for html in shown), sign
    assert not any(re.search(r"\$|\*\*|```|\\", re.sub(r'alttext="[^"]*"', "", html)) for html in shown)


@pytest.mark.parametrize("language", LANGUAGES)
def test_their_code_does_what_they_say(language: str, capsys: pytest.CaptureFixture[str]):
    [code] = re.findall(
        r"```python\n(.*?)```", recordings.get_answer(recordings.list_questions(language)[0]), re.DOTALL
    )
    exec(code, {})
    assert capsys.readouterr().out


async def test_one_is_streamed_marked_and_free(redis: Redis, runner: Runner, ana: User):
    async with page_of(ana) as page:
        turn_id = await page.start(QUESTION, model="recorded", blocks=True)
        end = await page.ended()
    parts = page.of("turn.delta")
    assert "".join(event["text"] for event in parts) == recordings.get_answer(QUESTION)
    assert len(parts) > 20
    assert page.of("turn.block")
    for event in (*page.of("turn.started"), end):
        assert "data-recorded" in event["html"]
    assert (end["type"], end["usage"], end["cost_micros"], end["from_cache"]) == ("turn.completed", None, 0, True)

    turn = await in_thread(saved, turn_id)
    assert (turn.requested_model, turn.model, turn.provider) == ("recorded", "recorded", "recorded")
    assert await in_thread(Reservation.objects.filter(amount_micros=0, state=Reservation.State.RELEASED).count) == 1
    assert not await in_thread(UsageRecord.objects.exists)
    html = await in_thread(translation.override("en")(turn_html), turn)
    assert "Recorded example" in html
    assert "Credits: 0" in html
    assert "From cache" not in html
    assert ">Ask again<" not in html
    found = await in_thread(search_turns, ana.pk, Query(words=("counter", "diccionario")))
    assert [hit.turn.pk for hit in found.rows] == [turn.pk]


async def test_what_is_asked_after_it_goes_to_a_model(redis: Redis, runner: Runner, ana: User):
    first = await closed(await aask(ana, **PLAYED))
    then = await closed(await aask(ana, "say:hola", model="", conversation_id=first.conversation_id))
    assert (then.parent_id, then.model, then.answer.strip()) == (first.pk, "scripted", "hola")


def test_an_edited_question_goes_to_a_model_without_scripts_too(ana: User, client: Client):
    turn = ask(ana, **PLAYED)
    Turn.objects.update(status=Turn.Status.COMPLETED)
    metering.release(turn.pk)
    client.force_login(ana)
    address = reverse("edit", args=[turn.pk])
    form = dict(re.findall(r'name="(\w+)"\s+value="([^"]*)"', client.get(address).text))
    assert client.post(address, form | {"text": "say:otra"}).status_code == 302
    edited = Turn.objects.get(question="say:otra")
    assert (edited.parent_id, edited.candidates) == (None, "scripted")


def test_the_same_turn_again_is_the_same_turn(ana: User):
    turn = ask(ana, **PLAYED)
    ids = {"turn_id": turn.pk, "conversation_id": turn.conversation_id}
    assert ask(ana, **PLAYED, **ids).pk == turn.pk  # while it waits
    Turn.objects.update(status=Turn.Status.COMPLETED)
    assert ask(ana, **PLAYED, **ids).pk == turn.pk
    assert Turn.objects.count() == 1


def test_one_is_among_the_answers_at_once(ana: User):
    Plan.objects.update(turns_at_once=1)
    ask(ana, **PLAYED)
    with pytest.raises(TooManyAtOnce):
        ask(ana, **PLAYED)
    assert Turn.objects.count() == 1


def test_one_takes_no_id_that_is_reserved_for_a_paid_answer(ana: User):
    paid = question()
    metering.reserve(ana.pk, paid.turn_id, amount_micros=700)  # whose turn is written next
    with pytest.raises(BeingWritten):
        ask(ana, **PLAYED, turn_id=paid.turn_id)
    assert Reservation.objects.get().state == Reservation.State.HELD
    assert not Turn.objects.exists()


def test_nothing_else_is_answered_so(ana: User):
    with pytest.raises(UnknownModel):
        ask(ana, "¿Y otra cosa?", model="recorded")
    assert not Turn.objects.exists()


async def test_one_can_be_stopped(redis: Redis, runner: Runner, ana: User):
    turn = await aask(ana, **PLAYED)

    async def begun() -> str:
        return log.replay(await log.read_log(redis, turn.pk)).text

    await eventually(begun)
    await stop_turn(await in_thread(saved, turn))
    turn = await closed(turn)
    assert (turn.status, turn.cost_micros) == ("stopped", 0)
    assert recordings.get_answer(QUESTION).startswith(turn.answer)
    html = await in_thread(turn_html, turn)
    assert 'name="again"' in html
    assert 'name="continue"' not in html  # no model knows how it goes on


async def test_a_runner_that_dies_meanwhile_leaves_what_was_shown(redis: Redis, ana: User):
    turn = await aask(ana, **PLAYED)
    assert await in_thread(progress.claim, turn)
    entries = [
        Entry(turn.pk.bytes, EntryKind.BEGUN, 1, 0, encode_begun(RECORDED.model, is_from_cache=True)),
        Entry(turn.pk.bytes, EntryKind.TEXT, 1, 0, "Basta con contar"),
    ]
    for entry in entries:
        await redis.xadd(log.log_key(turn.pk), {"e": log.encode_entry(entry)})
    outcome = await in_thread(outcome_from_log, turn, await read_remains(redis, turn.pk))
    assert outcome is not None
    assert await rescue.close_without_runner(redis, turn, outcome, closer="another")
    turn = await in_thread(saved, turn)
    assert (turn.status, turn.answer, turn.model, turn.cost_micros) == (
        *("interrupted", "Basta con contar", "recorded"),
        0,
    )
