"""What a program asks with a key that keeps conversations: it is in its owner's history, as whatever they ask."""

import asyncio
import datetime as dt
import json
from typing import Any
from uuid import UUID

import pytest
from django.test import AsyncClient
from django.utils import timezone

from accounts import closure
from accounts.models import ApiKey, User
from billing.models import Reservation, UsageRecord
from chat.llm.providers.base import NO_OPTIONS, Message
from chat.models import LanguageModel
from chat.turns import keeping
from chat.turns.asked import Asked, asked_key
from chat.turns.completing import Completion, open_completion
from chat.turns.dialogues import written_answer
from chat.turns.forking import fork
from chat.turns.known_turns import HELD_GRACE
from chat.turns.runner import Runner
from chat.turns.sweeping import repair_turns
from chat.turns.titler import Titler
from core.redis_clients import sync_redis
from core.threads import in_thread
from history import access, deletion, forks, trash, tree
from history.models import Conversation, Turn, new_id
from history.temporary import is_temporary
from history.transfer.writing import write
from tests.chat.asking import aask, closed, eventually
from tests.chat.conftest import running
from tests.chat.everything import everything_stored
from tests.chat.http_streams import HttpStream
from tests.chat.live import page_of
from tests.chat.programs import TOOL, an_image, answered, call, key_of, refused, streamed, turn_of, user

pytestmark = [pytest.mark.usefixtures("catalog"), pytest.mark.stores]


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def said(text: str | None, *calls: tuple[str, str]) -> dict[str, Any]:
    made = [
        {"id": f"c{at}", "type": "function", "function": {"name": n, "arguments": a}} for at, (n, a) in enumerate(calls)
    ]
    return {"role": "assistant", "content": text} | ({"tool_calls": made} if made else {})


def found(turn_id: UUID) -> Turn:
    return Turn.objects.get(pk=turn_id)


@pytest.fixture
async def secret(carla: User) -> str:
    return await in_thread(lambda: key_of(carla, keeps_conversations=True))


async def test_a_dialogue_is_one_conversation(carla: User, secret: str, runner: Runner):
    first = await answered(secret, messages=[system("It is nine."), user("say:pomelo usage:10/3")])
    second = await answered(
        secret, messages=[system("It is ten."), user("say:pomelo usage:10/3"), said("pomelo"), user("say:dos")]
    )
    other = await answered(secret, messages=[user("say:pomelo usage:10/3"), said("pomelo "), user("say:tres")])
    [one, two, three] = [await in_thread(found, turn_of(answer)) for answer in (first, second, other)]
    assert [(turn.parent_id, turn.depth, turn.seq) for turn in (one, two, three)] == [
        (None, 0, 1),
        (one.pk, 1, 2),
        (one.pk, 1, 3),
    ]
    assert {turn.conversation_id for turn in (one, two, three)} == {one.conversation_id}
    assert (one.question, one.answer, one.instructions) == ("say:pomelo usage:10/3", "pomelo ", "It is nine.")
    assert (one.cost_micros, first["usage"]["cost_micros"]) == (16, 16)
    assert await in_thread(UsageRecord.objects.count) == 3

    # It is like any other: found, listed, gone on from, exported.
    conversation = await in_thread(access.access_conversation, carla.pk, one.conversation_id)
    assert (conversation.turn_count, conversation.title) == (3, "say:pomelo usage:10/3")
    own = await closed(await aask(carla, "tell", conversation_id=conversation.pk))
    assert own.parent_id == three.pk
    told = [message["text"] for message in json.loads(own.answer)[0]]
    assert told[1:] == ["say:pomelo usage:10/3", "pomelo ", "say:tres", "tres ", "tell"]
    assert "tres" in await in_thread(lambda: "".join(write(conversation, "markdown")))
    client = AsyncClient()
    await client.aforce_login(carla)
    assert "tres" in (await client.get(f"/c/{conversation.pk}/")).content.decode()
    assert (await client.get(f"/api/v1/turns/{one.pk}")).status_code == 200
    assert str(one.pk) in (await client.get("/api/v1/search?q=pomelo")).content.decode()

    # Programs go on in it, and in no copy of it.
    copy = await in_thread(fork, carla.pk, one.pk, new_id())
    assert not await in_thread(Turn.objects.filter(conversation_id=copy.pk, dialogue__isnull=False).exists)

    # Another key of the person goes on from nothing of it, and finds what it was told: a conversation of its own.
    elsewhere = await answered(
        await in_thread(lambda: key_of(carla, keeps_conversations=True)),
        messages=[user("say:pomelo usage:10/3"), said("pomelo"), user("say:dos")],
    )
    assert (await in_thread(found, turn_of(elsewhere))).conversation_id not in (conversation.pk, copy.pk)
    assert await in_thread(Conversation.objects.count) == 3


async def test_what_was_said_before_begins_a_conversation(carla: User, secret: str, runner: Runner):
    image = {"type": "image_url", "image_url": {"url": an_image()}}
    before = [
        {"role": "assistant", "content": "¡Hola!"},
        user("¿Qué tiempo hace?"),
        said(None, ("weather", '{"city":"Lima"}'), ("weather", '{"a":"```","b":"\\u0000"}')),
        {"role": "tool", "tool_call_id": "c0", "content": "Llueve."},
        {"role": "tool", "tool_call_id": "c1", "content": ""},
        said("Llueve."),
    ]
    await in_thread(_see_images)
    asked = [system("Be terse."), *before, {"role": "user", "content": [{"type": "text", "text": "say:uno"}, image]}]
    turn = await in_thread(found, turn_of(await answered(secret, messages=asked)))
    conversation = await in_thread(access.access_conversation, carla.pk, turn.conversation_id)
    rows = await in_thread(lambda: access.list_turns(conversation).rows)
    assert [row.question for row in rows] == [
        "…",
        "¿Qué tiempo hace?",
        "````\nweather → Llueve.\n````\n\n````\nweather → \n````",
        "say:uno\n\n[Image, not kept]",
    ]
    assert [row.answer for row in rows[:3]] == [
        "¡Hola!",
        '````\nweather({"city":"Lima"})\n````\n\n````\nweather({"a":"```","b":"\\u0000"})\n````',
        "Llueve.",
    ]
    assert [word in row.search_text for word, row in zip(("hola", "lima", "weather"), rows, strict=False)] == [True] * 3
    assert [row.parent_id for row in rows] == [None, *(row.pk for row in rows[:-1])]
    assert [(row.cost_micros, row.usage_source, row.status) for row in rows[:3]] == [(None, "", "completed")] * 3
    assert (conversation.turn_count, await in_thread(UsageRecord.objects.count)) == (4, 1)

    # The next requests know it again: after the answer, and before.
    for messages, parent in (
        ([*asked, said("uno"), user("say:dos")], turn.pk),
        ([*before, user("say:otro")], rows[2].pk),
        ([*before[:3], {"role": "tool", "tool_call_id": "c0", "content": "Nieva."}], rows[1].pk),
    ):
        following = await in_thread(found, turn_of(await answered(secret, messages=messages)))
        assert (following.conversation_id, following.parent_id) == (conversation.pk, parent)
    assert await in_thread(Conversation.objects.count) == 1

    # With another image it is another dialogue.
    image["image_url"]["url"] = an_image(size=(41, 30))
    elsewhere = await in_thread(found, turn_of(await answered(secret, messages=[*asked, said("uno"), user("say:dos")])))
    assert elsewhere.conversation_id != conversation.pk


def _see_images() -> None:
    row = LanguageModel.objects.get(key="scripted")
    row.sees_images, row.context_window = True, 1_000_000
    row.save()


async def test_tools_that_are_called_are_in_the_answer_and_apart_for_the_program(secret: str, runner: Runner):
    question = 'say:Veamos call:weather/{"city":"Lima","at":1}'
    document = await answered(secret, question, tools=[TOOL])
    message = document["choices"][0]["message"]
    assert (message["content"], len(message["tool_calls"])) == ("Veamos ", 1)
    first = await in_thread(found, turn_of(document))
    assert (first.answer, written_answer(first)) == (
        'Veamos \n\n````\nweather({"city":"Lima","at":1})\n````',
        "Veamos ",
    )
    assert "lima" in first.search_text

    # The SDK writes the arguments in its own way, and gives the call another id.
    asked = [
        user(question),
        said("Veamos", ("weather", '{"at": 1, "city": "Lima"}')),
        {"role": "tool", "tool_call_id": "c0", "content": "Llueve."},
    ]
    *_chunks, done = await streamed(secret, messages=asked, tools=[TOOL])
    assert done == "[DONE]"
    second = await in_thread(lambda: Turn.objects.get(parent_id=first.pk))
    assert second.question == "````\nweather → Llueve.\n````"

    # What is read once its log is gone is what was said, and no more.
    body = {"model": "scripted", "messages": [user("call:weather/{}")], "tools": [TOOL], "stream": True}
    for _ in range(2):
        answer = await call(secret, "chat/completions", body, Idempotency_Key="one")
        raw = b"".join([part async for part in answer.streaming_content]).decode()
        assert "````" not in raw
        assert '"name":"weather"' in raw
        for key in sync_redis().scan_iter("turn:*:log"):
            sync_redis().delete(key)


async def test_it_is_answered_once_for_an_idempotency_key_and_twice_at_once_without(
    carla: User, secret: str, runner: Runner
):
    body = {"model": "scripted", "messages": [user("say:hola"), said("hola"), user("say:dos")]}
    both = await asyncio.gather(*(call(secret, "chat/completions", body, Idempotency_Key="one") for _ in range(2)))
    assert len({answer.content for answer in both}) == 1
    turn = await in_thread(found, turn_of(json.loads(both[0].content)))
    assert await in_thread(Turn.objects.count) == 2
    again = await asyncio.gather(*(answered(secret, messages=body["messages"]) for _ in range(2)))
    siblings = [await in_thread(found, turn_of(document)) for document in again]
    assert {row.parent_id for row in siblings} == {turn.parent_id}
    assert {row.conversation_id for row in siblings} == {turn.conversation_id}
    conversation = await in_thread(access.access_conversation, carla.pk, turn.conversation_id)
    assert conversation.turn_count == 4

    # What has failed for nothing is what is there, as ever.
    for text in ("fail:timeout", "say:secreto"):
        body = {"model": "scripted", "messages": [user(text)]}
        assert (await call(secret, "chat/completions", body, Idempotency_Key="two")).status_code == 504
    assert not await in_thread(Reservation.objects.filter(state="held").exists)
    assert await in_thread(Conversation.objects.count) == 2
    assert not list(sync_redis().scan_iter("turn:*:asked"))


@pytest.mark.parametrize("away", ["trashed", "deleted", "trashed at that moment"])
async def test_what_was_thrown_away_stays_so(
    carla: User, secret: str, runner: Runner, away: str, monkeypatch: pytest.MonkeyPatch
):
    first = await in_thread(found, turn_of(await answered(secret, "say:hola")))
    conversation = await in_thread(access.access_conversation, carla.pk, first.conversation_id)
    throw = (
        deletion.delete_conversation if away == "deleted" else lambda row: trash.trash_conversations(carla.pk, [row.pk])
    )
    if away == "trashed at that moment":
        add = tree.add_turn

        def add_too_late(turn: Turn) -> Turn:
            throw(conversation)
            return add(turn)

        monkeypatch.setattr(tree, "add_turn", add_too_late)
    else:
        await in_thread(throw, conversation)
    document = await answered(secret, messages=[user("say:hola"), said("hola"), user("say:dos")])
    turn = await in_thread(found, turn_of(document))
    assert (turn.answer, turn.seq) == ("dos ", 2)
    assert turn.conversation_id != conversation.pk
    assert await in_thread(lambda: Turn.objects.filter(conversation_id=conversation.pk).count()) == (away != "deleted")


async def test_whoever_waits_for_it_is_answered_from_the_trash(carla: User, secret: str, runner: Runner):
    asking = asyncio.create_task(answered(secret, "say:hola wait:20 say:mundo"))
    held = await eventually(lambda: in_thread(Reservation.objects.filter(state="held").first))
    await eventually(lambda: in_thread(sync_redis().xlen, f"turn:{held.pk}:log"))
    turn = await in_thread(found, held.pk)
    await in_thread(trash.trash_conversations, carla.pk, [turn.conversation_id])
    assert (await asking)["choices"][0]["message"]["content"] == "hola "
    assert (await closed(turn)).status == Turn.Status.STOPPED


async def test_whoever_goes_away_stops_it_and_it_is_kept(carla: User, secret: str, runner: Runner):
    asked = {"model": "scripted", "stream": True, "messages": [user("say:hola wait:20 say:mundo")]}
    request = HttpStream(secret, "chat/completions", asked, root="/v1/")
    request.begin()
    await request.has(b"hola")
    await request.leave()
    turn = await closed(await in_thread(Turn.objects.get))
    assert (turn.status, turn.answer) == (Turn.Status.STOPPED, "hola ")
    assert not await in_thread(Reservation.objects.filter(state="held").exists)


EARLIER = (Message("user", "a-secreto"), Message("assistant", "b"), Message("user", "say:c"))


@pytest.mark.parametrize("place", ["hidden", "written", "turns", "shown", "queued"])
async def test_whatever_a_process_dies_on_there_is_a_whole_conversation_or_none(
    carla: User, secret: str, redis: Any, place: str, monkeypatch: pytest.MonkeyPatch
):
    class Died(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Died

    def written_and_died(rows: Any) -> None:
        write_all(rows)
        raise Died

    write_all = Turn.objects.bulk_create
    match place:
        case "hidden":
            monkeypatch.setattr(forks, "finish_copy", die)
        case "written":
            monkeypatch.setattr(Turn.objects, "bulk_create", die)
        case "turns":
            monkeypatch.setattr(Turn.objects, "bulk_create", written_and_died)
        case "shown":
            monkeypatch.setattr(forks, "is_late", die)
        case "queued":
            monkeypatch.setattr("chat.turns.completing.enqueue", die)

    def open_one() -> None:
        completion = Completion(turn_id=new_id(), asked=Asked(EARLIER, NO_OPTIONS), key=ApiKey.objects.get())
        with pytest.raises(Died):
            open_completion(carla.pk, completion)

    await in_thread(open_one)
    monkeypatch.undo()
    listed = await in_thread(lambda: access.list_conversations(carla.pk).rows)
    assert [row.turn_count for row in listed] == ([2] if place == "queued" else [])
    await in_thread(_make_older)
    await repair_turns()
    await repair_turns()
    if place == "queued":  # its answer is not lost
        turn = await in_thread(lambda: Turn.objects.get(dialogue__isnull=False, status="queued"))
        async with running():
            assert (await closed(turn)).answer == "c "
    else:
        assert not await in_thread(Turn.objects.exists)
        assert not await in_thread(Conversation.objects.exists)
        assert (await in_thread(Reservation.objects.get)).state == "released"


def _make_older() -> None:
    long_ago = timezone.now() - dt.timedelta(seconds=90)
    Turn.objects.update(created_at=long_ago)
    Conversation.objects.update(created_at=long_ago)
    Reservation.objects.update(created_at=timezone.now() - HELD_GRACE * 2)


async def test_what_is_refused_leaves_nothing(carla: User, secret: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(forks, "is_late", lambda _copy: True)
    asked = [user("a"), said("b"), user("say:c")]
    answer = await call(secret, "chat/completions", {"model": "scripted", "messages": asked})
    assert (await refused(answer))[:2] == (503, "unavailable")
    assert not await in_thread(Turn.objects.exists)
    assert (await in_thread(Reservation.objects.get)).state == "released"
    assert not await in_thread(lambda: access.list_conversations(carla.pk).rows)
    assert not list(sync_redis().scan_iter("turn:*:asked"))


async def test_what_is_kept_gets_a_title_and_is_on_open_pages_and_nothing_else_does(
    carla: User, secret: str, runner: Runner, monkeypatch: pytest.MonkeyPatch
):
    titled: list[UUID] = []
    monkeypatch.setattr(Titler, "start", lambda _self, turn, **_fields: titled.append(turn.pk))
    await answered(await in_thread(key_of, carla))
    async with page_of(carla) as page:
        document = await answered(secret)
        assert (await page.next("turn.started"))["turn_id"] == str(turn_of(document))
    await answered(secret, messages=[user("say:hola"), said("hola"), user("say:dos")])
    assert titled == [turn_of(document)]


async def test_nothing_is_kept_of_what_a_request_or_its_key_does_not_keep(carla: User, secret: str, runner: Runner):
    plain = await in_thread(key_of, carla)
    for document in (
        await answered(secret, store=False),
        await answered(plain, store=True),
    ):
        assert is_temporary(turn_of(document))
    assert not await in_thread(Turn.objects.exists)
    assert not is_temporary(turn_of(await answered(secret, store=True)))


async def test_it_goes_with_the_account(carla: User, secret: str, runner: Runner):
    await answered(secret, messages=[user("pregunta-secreta"), said("respuesta-secreta"), user("say:otra-secreta")])
    await in_thread(carla.delete)

    def is_gone() -> bool:
        closure.finish_closures()
        return "-secreta" not in everything_stored()

    await eventually(lambda: in_thread(is_gone))


async def test_no_more_is_made_of_what_was_said_than_so_much(
    secret: str, runner: Runner, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(keeping, "MAX_EARLIER", 2)
    said_before = [message for text in "abcd" for message in (user(text), said(text.upper()))]
    turn = await in_thread(found, turn_of(await answered(secret, messages=[*said_before, user("say:e")])))
    assert (turn.depth, turn.seq) == (2, 3)
    assert await in_thread(lambda: list(Turn.objects.order_by("seq").values_list("question", flat=True))) == [
        "c",
        "d",
        "say:e",
    ]
    assert not sync_redis().exists(asked_key(turn.pk))
