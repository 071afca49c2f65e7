"""The chat API: questions answered as JSON or as server-sent events, and everything around them."""

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest
from django.test import AsyncClient, Client
from django.utils import translation

from accounts.admission import Admission
from accounts.api.views import tokens_for
from accounts.models import User
from billing.models import Plan
from chat.errors import sentence_for
from chat.models import LanguageModel
from chat.socket.tickets import redeem_ticket
from chat.turns.runner import Runner
from core.redis_clients import sync_redis
from core.threads import in_thread
from history import progress, tree
from history.models import Turn, new_id
from history.progress import Outcome
from tests.chat.asking import aask, ask, closed, period_of, saved
from tests.chat.conftest import Offer
from tests.chat.live import page_of

pytestmark = pytest.mark.usefixtures("catalog")

API = "/api/v1"
JSON = "application/json"
FIELDS = {
    *("id", "conversation_id", "parent_id", "model", "provider", "status", "question", "answer", "reasoning", "usage"),
    *("cost_micros", "finish_reason", "error", "created_at", "completed_at"),
}
USAGE = {"input", "cache_read", "cache_write", "output", "reasoning", "source"}


def turns_of(conversation_id: UUID | None = None) -> str:
    return f"/conversations/{conversation_id or new_id()}/turns"


async def call(user: User, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """Call the site as a program with an access token does; underscores in the names of headers are hyphens."""
    token = (await in_thread(tokens_for, user))["access"]
    fields = {"Authorization": f"Bearer {token}", "Accept-Language": "en"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {} if body is None else {"data": json.dumps(body, default=str), "content_type": JSON}
    return await getattr(AsyncClient(), method)(f"{API}{path}", headers=fields, **sent)


async def read(answer: Any) -> bytes:
    return b"".join([part async for part in answer.streaming_content])


async def post(user: User, text: str = "say:hola", conversation_id: UUID | None = None, **fields: Any) -> Any:
    """Ask, and return the answer before it was read."""
    body = {"text": text, "model": "scripted"} | fields
    return await call(user, "post", turns_of(conversation_id), body)


async def answered(user: User, text: str = "say:hola", conversation_id: UUID | None = None, **fields: Any) -> Any:
    answer = await post(user, text, conversation_id, **fields)
    assert answer.status_code == 200
    return json.loads(await read(answer))


def change_free(**fields: object) -> None:
    free = Plan.objects.get(key="free")
    for name, value in fields.items():
        setattr(free, name, value)
    free.save()


# --- A question as JSON -----------------------------------------------------------------------------------------------


async def test_a_question_is_answered_with_the_finished_turn(ana: User, runner: Runner):
    conversation_id = new_id()
    answer = await post(ana, "think:hm say:hola usage:10/3", conversation_id)
    assert (answer.status_code, answer["Content-Type"]) == (200, JSON)
    turn = json.loads(await read(answer))
    assert turn.keys() >= FIELDS
    assert (turn["conversation_id"], turn["parent_id"]) == (str(conversation_id), None)
    assert (turn["status"], turn["answer"], turn["reasoning"]) == ("completed", "hola ", "hm ")
    assert turn["question"] == "think:hm say:hola usage:10/3"
    assert (turn["model"], turn["provider"]) == ("scripted", "scripted")
    assert (turn["finish_reason"], turn["error"], turn["cost_micros"]) == ("stop", None, 16)
    assert turn["usage"].keys() == USAGE
    assert (turn["usage"]["input"], turn["usage"]["output"], turn["usage"]["source"]) == (10, 3, "provider")
    assert turn["created_at"] <= turn["completed_at"]


async def test_a_question_may_say_how_hard_to_think(ana: User, runner: Runner):
    await in_thread(teach_efforts)
    turn = await answered(ana, "think:hm wait:0.05 say:hola", effort="low")
    assert turn["effort"] == "low"
    assert 40 < turn["reasoning_ms"] < 5_000
    turn = await answered(ana)
    assert (turn["effort"], turn["reasoning_ms"]) == ("", 0)


async def test_an_effort_the_model_does_not_know_is_refused(ana: User):
    answer = await post(ana, effort="low")
    assert (answer.status_code, json.loads(answer.content)["code"]) == (422, "bad_effort")
    assert await in_thread(Turn.objects.count) == 0


def teach_efforts() -> None:
    scripted = LanguageModel.objects.get(key="scripted")
    scripted.efforts = "low high"
    scripted.save()


async def test_what_is_answered_is_what_is_kept(ana: User, runner: Runner):
    turn = await answered(ana)
    answer = await call(ana, "get", f"/turns/{turn['id']}")
    assert (answer.status_code, answer.json()) == (200, turn)


async def test_a_client_may_choose_the_id(ana: User, runner: Runner):
    turn_id = new_id()
    assert (await answered(ana, turn_id=turn_id))["id"] == str(turn_id)


async def test_a_session_may_ask_too(ana: User, runner: Runner):
    client = AsyncClient()
    await client.aforce_login(ana)
    body = json.dumps({"text": "say:hola", "model": "scripted"})
    answer = await client.post(f"{API}{turns_of()}", body, content_type=JSON)
    assert json.loads(await read(answer))["status"] == "completed"


async def test_a_following_question_continues_the_last_turn(ana: User, runner: Runner):
    conversation_id = new_id()
    first = await answered(ana, "say:uno", conversation_id)
    second = await answered(ana, "say:dos", conversation_id)
    assert (second["parent_id"], second["seq"]) == (first["id"], 2)


async def test_a_parent_of_null_begins_a_new_branch(ana: User, runner: Runner):
    conversation_id = new_id()
    await answered(ana, "say:uno", conversation_id)
    assert (await answered(ana, "say:dos", conversation_id, parent_id=None))["parent_id"] is None


async def test_a_named_parent_is_continued(ana: User, runner: Runner):
    conversation_id = new_id()
    first = await answered(ana, "say:uno", conversation_id)
    await answered(ana, "say:dos", conversation_id)
    third = await answered(ana, "say:tres", conversation_id, parent_id=first["id"])
    assert third["parent_id"] == first["id"]


async def test_a_turn_that_failed_is_an_answer_with_its_error(ana: User, runner: Runner):
    turn = await answered(ana, "fail:bad_request")
    assert (turn["status"], turn["answer"], turn["usage"], turn["cost_micros"]) == ("failed", "", None, None)
    with translation.override("en"):
        assert turn["error"] == {"code": "bad_request", "detail": sentence_for("bad_request")}


async def test_an_error_speaks_the_language_of_the_request(ana: User, runner: Runner):
    body = {"text": "fail:bad_request", "model": "scripted"}
    answer = await call(ana, "post", turns_of(), body, Accept_Language="pt-br")
    with translation.override("es"):  # whatever the process speaks by the time the turn is over
        turn = json.loads(await read(answer))
    with translation.override("pt-br"):
        assert turn["error"]["detail"] == sentence_for("bad_request")


async def test_no_word_of_a_provider_is_passed_on(ana: User, runner: Runner, offer: Offer):
    await in_thread(offer, "context")
    turn = await answered(ana, "hola", model="context")
    assert turn["error"]["code"] == "context_exceeded"
    assert "maximum context" not in json.dumps(turn)


async def test_the_same_id_again_is_the_same_turn(ana: User, runner: Runner):
    ids = {"turn_id": new_id(), "conversation_id": new_id()}
    first = await answered(ana, **ids)
    second = await answered(ana, **ids)
    assert first == second
    assert await in_thread(Turn.objects.count) == 1


async def test_the_same_id_twice_at_once_is_one_turn(ana: User, runner: Runner):
    ids = {"turn_id": new_id(), "conversation_id": new_id()}
    first, second = await asyncio.gather(*(answered(ana, "wait:0.2 say:hola", **ids) for _ in range(2)))
    assert first == second
    assert await in_thread(Turn.objects.count) == 1


async def test_hostile_text_is_returned_as_it_was_written(ana: User, runner: Runner):
    text = "<script>alert(1)</script>\u202e"
    assert (await answered(ana, f"say:{text}"))["answer"] == f"{text} "


async def test_a_page_sees_what_a_program_asked(ana: User, runner: Runner):
    async with page_of(ana) as page:
        turn = await answered(ana)
        assert (await page.next("turn.started"))["turn_id"] == turn["id"]
        assert (await page.ended())["turn_id"] == turn["id"]


# --- How often --------------------------------------------------------------------------------------------------------


async def test_an_answer_says_how_often_one_may_still_ask(ana: User, runner: Runner):
    answer = await post(ana)
    assert (answer["RateLimit-Limit"], answer["RateLimit-Remaining"]) == ("20", "19")
    assert 0 < int(answer["RateLimit-Reset"]) <= 180
    await read(answer)


async def test_a_stream_says_how_often_one_may_still_ask(ana: User, runner: Runner):
    answer = await post(ana, stream=True)
    assert (answer["RateLimit-Limit"], answer["RateLimit-Remaining"]) == ("20", "19")
    await read(answer)


async def test_without_a_limit_of_questions_it_says_how_many_requests_are_left(carla: User, runner: Runner):
    answer = await post(carla)
    assert answer["RateLimit-Limit"] == "600"
    await read(answer)


async def test_a_turn_that_was_known_is_not_counted(ana: User, runner: Runner):
    ids = {"turn_id": new_id(), "conversation_id": new_id()}
    await answered(ana, **ids)
    await answered(ana, **ids)
    answer = await post(ana)
    assert answer["RateLimit-Remaining"] == "18"
    await read(answer)


# --- A question as a stream -------------------------------------------------------------------------------------------

Event = tuple[str, str, dict[str, Any]]


def events_of(body: bytes) -> list[Event]:
    """Return id, name and data of each event; the format is WHATWG's, section 9.2."""
    found = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if fields:
            assert fields.keys() <= {"id", "event", "data"}
            found.append((fields.get("id", ""), fields["event"], json.loads(fields["data"])))
    return found


def text_of(events: list[Event], name: str = "turn.delta") -> str:
    """Return the text of the events, which must begin where those before ended."""
    deltas = [data for _id, event, data in events if event == name]
    for one, following in zip(deltas, deltas[1:], strict=False):
        assert following["at"] == one["at"] + len(one["text"])
    return "".join(delta["text"] for delta in deltas)


async def streamed(user: User, text: str, **fields: Any) -> list[Event]:
    return events_of(await read(await post(user, text, stream=True, **fields)))


async def events_after(user: User, turn_id: UUID | str, last: str | None = None) -> list[Event]:
    answer = await call(user, "get", f"/turns/{turn_id}/events", **({} if last is None else {"Last_Event_ID": last}))
    assert answer.status_code == 200
    return events_of(await read(answer))


async def test_a_stream_tells_the_whole_turn(ana: User, runner: Runner):
    turn_id = new_id()
    events = await streamed(ana, "think:hm wait:0.1 say:hola wait:0.1 say:mundo usage:10/3", turn_id=turn_id)
    names = [name for _id, name, _data in events]
    assert names == ["turn.started", "turn.reasoning", "turn.delta", "turn.delta", "turn.completed"]
    assert all(data["type"] == name and data["turn_id"] == str(turn_id) for _id, name, data in events)
    assert (text_of(events), text_of(events, "turn.reasoning")) == ("hola mundo ", "hm ")
    end = events[-1][2]
    assert (end["cost_micros"], end["usage"]["output"], end["can_continue"]) == (16, 3, False)
    assert end["turn"].keys() >= FIELDS
    assert end["turn"]["answer"] == "hola mundo "


async def test_a_stream_is_not_held_back_or_kept(ana: User, runner: Runner):
    answer = await post(ana, stream=True)
    assert answer["Content-Type"] == "text/event-stream"
    assert (answer["Cache-Control"], answer["X-Accel-Buffering"]) == ("no-store", "no")
    await read(answer)


async def test_the_text_of_a_stream_comes_as_it_is_written(ana: User, runner: Runner):
    turn_id = new_id()
    answer = await post(ana, "say:hola wait:0.5 say:mundo", stream=True, turn_id=turn_id)
    parts = aiter(answer.streaming_content)
    while b"hola" not in await anext(parts):
        pass
    assert (await in_thread(saved, turn_id)).is_open
    async for _part in parts:
        pass


async def test_events_have_no_html(ana: User, runner: Runner):
    for _id, _name, data in await streamed(ana, "say:hola"):
        assert "html" not in data


async def test_a_failed_turn_ends_its_stream_with_the_reason(ana: User, runner: Runner):
    event_id, name, data = (await streamed(ana, "fail:bad_request"))[-1]
    assert (event_id, name, data["code"]) == ("over", "turn.failed", "bad_request")
    with translation.override("en"):
        assert data["detail"] == data["turn"]["error"]["detail"] == sentence_for("bad_request")


async def test_the_ids_of_events_name_what_one_has_then(ana: User, runner: Runner):
    events = await streamed(ana, "think:hm wait:0.1 say:hola wait:0.1 say:ñ😀")
    assert [event_id for event_id, _name, _data in events] == ["", "1-0-3", "1-5-3", "1-8-3", "over"]


async def test_from_every_id_one_gets_exactly_the_rest(ana: User, runner: Runner):
    turn_id = new_id()
    events = await streamed(ana, "think:hm wait:0.1 say:hola wait:0.1 say:ñ😀", turn_id=turn_id)
    for number, (event_id, _name, _data) in enumerate(events[1:-1], start=2):
        rest = await events_after(ana, turn_id, event_id)
        assert rest[0][1] == "turn.started"
        assert rest[-1] == events[-1]
        for kind in ("turn.delta", "turn.reasoning"):
            assert text_of(rest[1:], kind) == text_of(events[number:], kind)


async def test_who_comes_back_while_it_is_written_gets_exactly_the_rest(ana: User, runner: Runner):
    turn = await aask(ana, "say:hola wait:0.5 say:mundo")
    rest = await events_after(ana, turn.pk, "1-2-0")
    assert text_of(rest) == "la mundo "
    assert rest[-1][0] == "over"


async def test_who_has_the_end_has_everything(ana: User, runner: Runner):
    turn = await closed(await aask(ana))
    answer = await call(ana, "get", f"/turns/{turn.pk}/events", Last_Event_ID="over")
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("last", ["", "nonsense", "1", "x-y-z", "1-2-3-4", "-", "9" * 400, "0-5-0"])
async def test_who_comes_back_with_another_id_gets_everything_again(ana: User, runner: Runner, last: str):
    turn = await closed(await aask(ana, "say:hola say:mundo"))
    events = await events_after(ana, turn.pk, last)
    assert (text_of(events), events[-1][0]) == ("hola mundo ", "over")


async def test_the_events_of_a_finished_turn_without_a_log_are_told_from_the_saved_one(ana: User, runner: Runner):
    turn = await closed(await aask(ana, "think:hm say:hola"))
    sync_redis().flushall()
    events = await events_after(ana, turn.pk)
    assert (text_of(events), text_of(events, "turn.reasoning"), events[-1][0]) == ("hola ", "hm ", "over")


async def test_two_readers_get_the_same(ana: User, runner: Runner):
    turn = await aask(ana, "say:hola wait:0.2 say:mundo")
    first, second = await asyncio.gather(*(events_after(ana, turn.pk) for _ in range(2)))
    assert text_of(first) == text_of(second) == "hola mundo "


# --- Stop -------------------------------------------------------------------------------------------------------------


async def test_a_stop_is_accepted_and_ends_the_turn(ana: User, runner: Runner):
    turn = await aask(ana, "say:hola wait:20")
    reading = asyncio.create_task(events_after(ana, turn.pk))
    await asyncio.sleep(0.3)
    answer = await call(ana, "post", f"/turns/{turn.pk}/stop")
    assert answer.status_code == 202
    assert answer.json()["id"] == str(turn.pk)
    events = await reading
    assert (events[-1][1], events[-1][2]["can_continue"]) == ("turn.stopped", True)
    assert (await closed(turn)).answer == "hola "


async def test_a_turn_nobody_began_is_stopped_at_once(ana: User, redis: object):
    turn = await aask(ana)
    answer = await call(ana, "post", f"/turns/{turn.pk}/stop")
    assert (answer.status_code, answer.json()["status"]) == (202, "stopped")


async def test_stopping_a_finished_turn_changes_nothing(ana: User, runner: Runner):
    turn = await closed(await aask(ana))
    answer = await call(ana, "post", f"/turns/{turn.pk}/stop")
    assert (answer.status_code, answer.json()["status"]) == (202, "completed")


# --- Refusals ---------------------------------------------------------------------------------------------------------


def refused(client: Any, status: int, code: str, path: str = "", **fields: Any) -> dict[str, Any]:
    """Ask; check the shape of the refusal, and that nothing was begun; return its body."""
    before = Turn.objects.count()
    body = {"text": "hola", "model": "scripted"} | fields
    answer = client.post(f"{API}{path or turns_of()}", body, format="json")
    assert answer.status_code == status, answer.content
    found: dict[str, Any] = answer.json()
    assert found.keys() - {"fields", "retry_after"} == {"code", "detail", "request_id"}
    assert found["code"] == code
    assert found["detail"]
    assert found["request_id"] == answer["X-Request-ID"]
    assert answer.get("Retry-After") == (str(found["retry_after"]) if "retry_after" in found else None)
    assert Turn.objects.count() == before
    return found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("text", None), ("text", {}), ("model", None), ("model", "x" * 101), ("parent_id", "7"), ("turn_id", "7")),
        *(("turn_id", None), ("stream", "perhaps"), ("text", "x" * 1_000_001)),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_400_names_the_field_that_is_not_valid(api: Any, ana: User, field: str, value: object):
    assert list(refused(api(ana), 400, "invalid", **{field: value})["fields"]) == [field]


def test_400_for_no_question_at_all(api: Any, ana: User):
    answer = api(ana).post(f"{API}{turns_of()}", {}, format="json")
    assert (answer.status_code, list(answer.json()["fields"])) == (400, ["text"])


@pytest.mark.parametrize("text", ["", " \n"])
def test_400_for_an_empty_question(api: Any, ana: User, text: str):
    refused(api(ana), 400, "text_empty", text=text)


def test_401_for_a_visitor(api: Any, ana: User):
    refused(api(), 401, "not_authenticated")


def test_402_when_the_allowance_is_used_up_says_when_it_is_renewed(api: Any, ana: User):
    change_free(credits_per_month=0)
    assert 0 < refused(api(ana), 402, "allowance_used_up")["retry_after"] <= 31 * 24 * 3600


def test_403_for_a_model_the_plan_does_not_have(api: Any, ana: User):
    LanguageModel.objects.filter(key="scripted").update(tier="strong")
    refused(api(ana), 403, "not_in_plan")


def test_404_for_a_model_that_is_not_offered(api: Any, ana: User):
    refused(api(ana), 404, "unknown_model", model="gpt-0")


def test_404_for_a_foreign_conversation(api: Any, ana: User, bo: User):
    refused(api(ana), 404, "not_found", turns_of(ask(bo).conversation_id))


def test_404_for_a_parent_that_is_not_in_the_conversation(api: Any, ana: User):
    refused(api(ana), 404, "not_found", parent_id=str(new_id()))


def test_409_for_an_id_that_is_in_use(api: Any, ana: User, bo: User):
    refused(api(ana), 409, "conflict", turn_id=str(ask(bo).pk))


def test_409_for_a_question_after_an_answer_that_is_being_written(api: Any, carla: User):
    refused(api(carla), 409, "parent_not_finished", turns_of(ask(carla).conversation_id))


def test_413_for_a_question_the_plan_does_not_allow(api: Any, ana: User):
    refused(api(ana), 413, "text_too_long", text="x" * 32_001)


def test_413_for_a_question_the_model_cannot_read(api: Any, carla: User):
    LanguageModel.objects.filter(key="scripted").update(context_window=1_200)
    refused(api(carla), 413, "context_exceeded", text="ñandú " * 2_000)


def test_429_for_a_second_answer_at_once(api: Any, ana: User):
    ask(ana)
    refused(api(ana), 429, "too_many_at_once")


def test_429_for_asking_too_often_says_how_long_to_wait(api: Any, ana: User):
    change_free(turns_per_hour=1, turns_at_once=9)
    ask(ana)
    assert 3_500 < refused(api(ana), 429, "rate_limited")["retry_after"] <= 3_600


def test_503_when_no_model_is_there(api: Any, ana: User):
    LanguageModel.objects.all().delete()
    refused(api(ana), 503, "no_model", model="")


def test_a_refusal_costs_nothing(api: Any, ana: User):
    refused(api(ana), 404, "unknown_model", model="gpt-0")
    period = period_of(ana)
    assert (period.used_micros, period.reserved_micros, period.account.holds) == (0, 0, 0)


@pytest.mark.parametrize(("method", "path"), [("get", ""), ("get", "/events"), ("post", "/stop")])
def test_a_foreign_and_a_missing_turn_are_the_same_404(api: Any, ana: User, bo: User, method: str, path: str):
    theirs = ask(bo)
    foreign, missing = (getattr(api(ana), method)(f"{API}/turns/{pk}{path}") for pk in (theirs.pk, new_id()))
    assert foreign.status_code == missing.status_code == 404
    assert foreign.json() | {"request_id": ""} == missing.json() | {"request_id": ""}
    assert saved(theirs).is_open


@pytest.mark.parametrize(("method", "path"), [("get", ""), ("get", "/events"), ("post", "/stop")])
def test_a_visitor_sees_no_turn(api: Any, bo: User, method: str, path: str):
    assert getattr(api(), method)(f"{API}/turns/{ask(bo).pk}{path}").status_code == 401


def test_an_address_outside_the_api_that_does_not_exist_is_a_page(catalog: None):
    answer = Client().get("/nothing/")
    assert answer.status_code == 404
    assert answer["Content-Type"].startswith("text/html")


# --- Lists ------------------------------------------------------------------------------------------------------------


def finished_turns(user: User, count: int, conversation_id: UUID) -> list[str]:
    """Write turns as if they had been asked and answered; return their ids."""
    tree.get_or_create_conversation(user.pk, conversation_id, title="Saludos")
    ids = []
    for number in range(count):
        turn = tree.add_turn(
            Turn(
                owner_id=user.pk,
                conversation_id=conversation_id,
                question=f"pregunta {number}",
                requested_model="scripted",
                max_output=9,
            )
        )
        progress.claim(turn)
        progress.close(turn, Outcome("completed", answer=f"respuesta {number}", model="scripted"))
        ids.append(str(turn.pk))
    return ids


def test_turns_are_listed_in_the_order_they_were_asked(api: Any, ana: User):
    conversation_id = new_id()
    ids = finished_turns(ana, 3, conversation_id)
    body = api(ana).get(f"{API}{turns_of(conversation_id)}").json()
    assert ([turn["id"] for turn in body["results"]], body["next"]) == (ids, None)
    assert all(turn.keys() >= FIELDS for turn in body["results"])


def test_a_turn_that_is_being_written_is_listed(api: Any, ana: User):
    turn = ask(ana)
    (listed,) = api(ana).get(f"{API}{turns_of(turn.conversation_id)}").json()["results"]
    assert (listed["status"], listed["usage"], listed["cost_micros"]) == ("queued", None, None)
    assert (listed["completed_at"], listed["error"], listed["model"]) == (None, None, "scripted")


def test_a_long_list_of_turns_goes_on_with_next(api: Any, ana: User):
    conversation_id = new_id()
    ids = finished_turns(ana, 53, conversation_id)
    first = api(ana).get(f"{API}{turns_of(conversation_id)}").json()
    second = api(ana).get(f"{API}{turns_of(conversation_id)}", {"after": first["next"]}).json()
    assert [turn["id"] for turn in first["results"] + second["results"]] == ids
    assert (len(first["results"]), second["next"]) == (50, None)


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "", "²", "9" * 30, "9" * 5_000])
def test_a_cursor_of_turns_that_is_not_ours_is_no_error(api: Any, ana: User, after: str):
    conversation_id = new_id()
    finished_turns(ana, 1, conversation_id)
    assert api(ana).get(f"{API}{turns_of(conversation_id)}", {"after": after}).status_code in (200, 400, 404)


def test_the_turns_of_a_foreign_conversation_are_not_listed(api: Any, ana: User, bo: User):
    assert api(ana).get(f"{API}{turns_of(ask(bo).conversation_id)}").status_code == 404


def test_models_are_listed_in_the_operators_order(api: Any, ana: User):
    first = LanguageModel.objects.create(
        key="best",
        provider="scripted",
        provider_model="best",
        label="Best",
        tier="strong",
        position=1,
        context_window=8_000,
        max_output=1_000,
        input_price=0,
        output_price=0,
    )
    body = api(ana).get(f"{API}/models", HTTP_ACCEPT_LANGUAGE="en").json()
    assert body["next"] is None
    auto, best, scripted = body["results"]
    assert (auto["id"], auto["included"], auto["context_window"], auto["input_price"]) == ("auto", True, 8_000, None)
    assert auto.keys() == scripted.keys()
    with translation.override("en"):
        assert (best["id"], best["included"], best["remark"]) == ("best", False, first.remark)
    assert best["remark"]
    assert scripted == {
        "id": "scripted",
        "label": "Scripted",
        "remark": "",
        "provider": "Scripted",
        "tier": "cheap",
        "context_window": 8_000,
        "max_output": 1_000,
        "input_price": 1_000_000,
        "output_price": 2_000_000,
        "sees_images": False,
        "reads_pdfs": False,
        "reasons": False,
        "efforts": [],
        "included": True,
    }


def test_a_model_says_what_it_can_do(api: Any, ana: User, settings: Any):
    settings.GEMINI_API_KEY = "k"
    flash = {model["id"]: model for model in api(ana).get(f"{API}/models").json()["results"]}["gemini-3.8-flash"]
    assert (flash["sees_images"], flash["reads_pdfs"], flash["reasons"]) == (True, True, True)
    assert flash["efforts"] == ["low", "medium", "high"]


def test_a_visitor_sees_no_models(api: Any, catalog: None):
    assert api().get(f"{API}/models").status_code == 401


def test_search_finds_your_turns(api: Any, ana: User, bo: User):
    mine = finished_turns(ana, 2, new_id())
    finished_turns(bo, 1, new_id())
    body = api(ana).get(f"{API}/search", {"q": "RESPUESTA 1"}).json()
    assert ([turn["id"] for turn in body["results"]], body["next"]) == ([mine[1]], None)
    assert body["results"][0].keys() >= FIELDS


@pytest.mark.parametrize("query", [{}, {"q": ""}, {"q": " "}])
def test_search_for_nothing_finds_nothing(api: Any, ana: User, query: dict[str, str]):
    finished_turns(ana, 1, new_id())
    nothing = {"results": [], "next": None, "conversations": [], "similar": [], "not_filters": []}
    assert api(ana).get(f"{API}/search", query).json() == nothing


def test_a_visitor_cannot_search(api: Any, catalog: None):
    assert api().get(f"{API}/search", {"q": "hola"}).status_code == 401


# --- Tickets ----------------------------------------------------------------------------------------------------------


def test_a_ticket_is_whose_it_is_once(api: Any, ana: User):
    answer = api(ana).post(f"{API}/socket-tickets")
    assert answer.status_code == 201
    assert answer.json().keys() == {"ticket", "expires_in"}
    assert answer.json()["expires_in"] == 60
    assert redeem_ticket(answer.json()["ticket"]) == Admission(ana.pk, ana.seal)
    assert redeem_ticket(answer.json()["ticket"]) is None


def test_every_ticket_is_another_one(api: Any, ana: User):
    assert len({api(ana).post(f"{API}/socket-tickets").json()["ticket"] for _ in range(5)}) == 5


def test_a_visitor_gets_no_ticket(api: Any, catalog: None):
    assert api().post(f"{API}/socket-tickets").status_code == 401
