"""Batches: what is refused, what they may cost, how they end; each line is asked and paid once, whatever dies."""

import asyncio
import datetime as dt
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone, translation
from pytest_django import Settings
from redis.exceptions import RedisError
from rest_framework.test import APIClient

from accounts.keys import KeyTerms, make_key, revoke_key
from accounts.models import ApiKey, User
from billing.entitlements import account_of
from billing.errors import AllowanceUsedUp
from billing.models import UsageRecord
from chat.batches import beginning, driving, states, validating
from chat.batches.beginning import cancel_batch, start_batch
from chat.batches.lines import FileLine, LineProblem, read_custom_id
from chat.batches.sweeping import repair_batches
from chat.models import Batch, BatchLine, LanguageModel
from chat.turns import closing, completing, line_answers, sweeping
from chat.turns.runner import Runner
from chat.turns.sweeping import repair_turns
from config import settings as site
from core import caching
from core.errors import Unavailable
from core.redis_clients import sync_redis
from core.threads import in_thread
from tests.chat.asking import eventually, until
from tests.chat.batching import (
    as_file,
    change_plans,
    check_bill,
    let_time_pass,
    line,
    now,
    release,
    results,
    send,
    work_off,
)
from tests.chat.conftest import running
from tests.history.carrying import body_of

pytestmark = [pytest.mark.stores, pytest.mark.usefixtures("catalog")]

COST = 16
"""Micros, of 10 tokens read and 3 written."""


@pytest.fixture(autouse=True)
def folder(settings: Settings, tmp_path: Any, carla: User) -> Any:
    options = {**site.STORAGES["transfers"]["OPTIONS"], "location": tmp_path / "transfers"}
    settings.STORAGES = {**site.STORAGES, "transfers": {**site.STORAGES["transfers"], "OPTIONS": options}}
    change_plans(has_batches=True)
    return tmp_path / "transfers"


@pytest.fixture(autouse=True)
def nothing_breaks(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [record for record in caplog.get_records("call") if record.message == "Batch not moved on"]


def files(folder: Any) -> list[str]:
    return [path.name for path in folder.glob("*")] if folder.exists() else []


# --- The file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "code", "param"),
    [
        (b"{", "line_not_json", None),
        (b"[]", "line_not_json", None),
        (line(""), "custom_id_missing", None),
        (line(7), "custom_id_missing", None),
        (line("a"), "custom_id_again", None),
        (line("b") | {"method": "GET"}, "method_wrong", None),
        (line("\ud800"), "line_not_json", None),
        (b'{"custom_id":"b","method":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "line_not_json", None),
        (b'\xef\xbb\xbf{"custom_id":"b"}', "line_not_json", None),
        (line("b") | {"url": "/v1/embeddings"}, "url_wrong", None),
        (line("b") | {"body": "x"}, "body_missing", None),
        (line("b", stream=True), "stream_wrong", None),
        (line("b", messages=[]), "invalid", "messages"),
        (line("b", model="gpt-2"), "model_not_found", None),
        (line("b", n=2), "unsupported_parameter", "n"),
        (line("b", "x" * 40_000), "context_length_exceeded", None),
    ],
)
def test_a_line_that_is_wrong_is_named_and_nothing_is_done(
    carla: User, folder: Any, wrong: Any, code: str, param: str | None
):
    batch = send(carla, [line("a"), b"", wrong])
    assert (batch.status, batch.error, batch.total) == ("refused", "batch_file_wrong", 0)
    [problem] = json.loads(batch.problems)
    assert (problem["line"], problem["code"], problem["param"]) == (3, code, param)
    assert problem["detail"]
    assert not BatchLine.objects.exists()
    assert not UsageRecord.objects.exists()
    assert files(folder) == []
    assert results(batch) == []


def test_what_was_not_written_whole_is_not_asked(carla: User, folder: Any, monkeypatch: pytest.MonkeyPatch):
    store, whole = states.batch_storage(), as_file([line("a"), line("b")])
    save = store.save

    def save_a_part(name: str, _file: Any) -> None:
        save(name, as_file([line("a")]))
        raise OSError("No space left on device")

    monkeypatch.setattr(store, "save", save_a_part)
    monkeypatch.setattr(states, "batch_storage", lambda: store)
    with pytest.raises(OSError, match="No space"):
        beginning.begin_batch(carla.pk, whole, beginning.BatchTerms(starts_itself=True))
    assert (Batch.objects.count(), files(folder)) == (0, [])
    monkeypatch.undo()

    batch = send(carla, [line("a"), line("b")], start=False)  # and whoever writes it may be killed
    [path] = folder.glob("*")
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    Batch.objects.update(status="validating", position=0, lines_read=0, total=0, claimed_at=None)
    BatchLine.objects.all().delete()
    driving.drive(0.3)
    assert (now(batch).status, now(batch).error) == ("refused", "batch_file_lost")


def test_a_line_of_millions_of_values_does_not_stop_the_interpreter():
    raw = b'{"custom_id":[' + b"{}," * 1_500_000 + b"0]}"
    begun = time.thread_time()
    with pytest.raises(LineProblem):
        read_custom_id(FileLine(1, 0, len(raw), raw))
    assert time.thread_time() - begun < 0.2


def test_of_many_wrong_lines_the_first_are_named(carla: User):
    batch = send(carla, [line("same") for _number in range(30)])
    assert [problem["line"] for problem in json.loads(batch.problems)] == list(range(2, 22))


def test_a_file_is_checked_in_portions_and_an_id_is_there_once_in_all_of_them(
    carla: User, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(validating, "LINES_AT_ONCE", 3)
    lines = [line(f"line {number}") for number in range(10)]
    batch = send(carla, lines, start=False)
    assert (batch.status, batch.total, batch.most_micros > batch.estimate_micros > 0) == ("validated", 10, True)
    again = send(carla, [*lines, line("line 1")])
    [problem] = json.loads(again.problems)
    assert (problem["line"], problem["code"]) == (11, "custom_id_again")


@pytest.mark.parametrize(("count", "error"), [(0, "batch_empty"), (4, "batch_too_many_lines")])
def test_a_file_has_some_lines_and_not_too_many(carla: User, settings: Settings, count: int, error: str):
    settings.BATCH_LINES = 3
    batch = send(carla, [line(str(number)) for number in range(count)] or [b" "])
    assert (batch.status, batch.error) == ("refused", error)


def test_a_worker_that_dies_while_it_checks_is_followed(carla: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(validating, "LINES_AT_ONCE", 2)
    write, written = validating.write_batch, []

    def die(batch: Batch, **fields: Any) -> None:
        write(batch, **fields)
        written.append(fields)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(validating, "write_batch", die)
    with pytest.raises(KeyboardInterrupt):
        send(carla, [line(str(number)) for number in range(7)])
    batch = Batch.objects.get()
    assert BatchLine.objects.count() == batch.total == 2
    release(batch)
    while now(batch).status == "validating":
        driving.drive(0.01)
        release(batch)
    assert list(BatchLine.objects.order_by("number").values_list("custom_id", flat=True)) == list("0123456")


# --- Answers ----------------------------------------------------------------------------------------------------------


async def test_each_request_has_one_line_in_the_order_of_the_file(carla: User, runner: Runner, folder: Any):
    texts = ["say:uno usage:10/3", "say:dos usage:10/3", "say:no usage:10/3 end:refusal", "fail:bad_request"]
    batch = await in_thread(send, carla, [line(f"id {at}", text) for at, text in enumerate(texts)])
    batch = await work_off(batch)
    assert (batch.status, batch.error, batch.total) == ("completed", "", 4)
    one, two, declined, failed = await in_thread(results, batch)
    assert one["custom_id"] == "id 0"
    assert one["response"]["status_code"] == 200
    document = one["response"]["body"]
    assert document["object"] == "chat.completion"
    assert document["choices"][0]["message"]["content"] == "uno "
    assert document["usage"]["cost_micros"] == one["cost_micros"] == COST
    assert two["response"]["body"]["choices"][0]["message"]["content"] == "dos "
    assert (failed["custom_id"], failed["error"], failed["cost_micros"]) == ("id 3", None, 0)
    assert failed["response"]["status_code"] == 400
    assert failed["response"]["body"]["error"]["code"] == "bad_request"
    assert declined["response"]["status_code"] == 200
    assert declined["response"]["body"]["choices"][0]["message"]["refusal"] == "no "
    assert (batch.completed, batch.failed) == (3, 1)
    assert await in_thread(check_bill, batch) == 3 * COST
    assert files(folder) == []


async def test_what_failed_for_nothing_is_asked_again_and_then_is_the_result(
    carla: User, runner: Runner, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(line_answers, "TRY_AGAIN", dt.timedelta(0))
    batch = await in_thread(send, carla, [line("a", "fail:overloaded"), line("b", "fail:content_filter")])
    batch = await work_off(batch)
    lines = await in_thread(lambda: {one.custom_id: one for one in BatchLine.objects.all()})
    assert (lines["a"].tries, lines["b"].tries) == (line_answers.MAX_TRIES - 1, 0)
    overloaded, filtered = await in_thread(results, batch)
    assert overloaded["response"]["body"]["error"]["code"] == "overloaded"
    assert overloaded["response"]["status_code"] == 503


def test_it_starts_by_itself_where_its_owner_says_so(carla: User):
    batch, _secret = beginning.begin_batch(carla.pk, as_file([line("a")]), beginning.BatchTerms(starts_itself=True))
    while now(batch).status == Batch.Status.VALIDATING:
        driving.drive(0.01)
    assert now(batch).status == Batch.Status.RUNNING


async def test_a_few_lines_are_open_at_a_time_and_those_of_one_person_batch_after_batch(carla: User):
    await in_thread(partial(change_plans, turns_at_once=6, turns_per_hour=1))
    first = await in_thread(send, carla, [line(str(at)) for at in range(20)])
    second = await in_thread(send, carla, [line(str(at)) for at in range(20)])
    await in_thread(driving.drive, 0.3)
    opened = BatchLine.objects.filter(status=BatchLine.Status.OPEN)
    assert await in_thread(opened.filter(batch=first).count) == 3  # half of what the plan has, and no hour is counted
    assert await in_thread(opened.filter(batch=second).count) == 0


async def test_while_many_wait_for_a_runner_no_line_joins_them(carla: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(driving, "MOST_WAITING", 2)
    await in_thread(send, carla, [line(str(at)) for at in range(20)])
    await in_thread(driving.drive, 0.3)
    assert await in_thread(BatchLine.objects.filter(status="open").count) <= driving.LINES_AT_ONCE
    await in_thread(BatchLine.objects.update, status="waiting", turn_id=None, tries=1)
    await in_thread(driving.drive, 0.3)
    assert await in_thread(BatchLine.objects.filter(status="open").count) == 0


# --- Crashes ----------------------------------------------------------------------------------------------------------


class Died(BaseException):
    """A worker was killed here."""


def die_at(monkeypatch: pytest.MonkeyPatch, place: str) -> Callable[[], bool]:
    """Have the first worker that comes to a place die there; return whether it has."""
    module, name, when = {
        "a line is marked": (driving, "read_body", "before"),
        "a hold is taken": (completing, "keep_asked", "before"),
        "what is asked is kept": (completing, "add_completion", "before"),
        "a turn is written": (completing, "enqueue", "before"),
        "a turn is queued": (driving, "open_completion", "after"),
    }[place]
    original, deaths = getattr(module, name), []

    def deadly(*arguments: Any, **named: Any) -> Any:
        if deaths or when == "before":
            if not deaths:
                deaths.append(place)
                raise Died
            return original(*arguments, **named)
        original(*arguments, **named)
        deaths.append(place)
        raise Died

    monkeypatch.setattr(module, name, deadly)
    return lambda: bool(deaths)


@pytest.mark.parametrize(
    "place",
    ["a line is marked", "a hold is taken", "what is asked is kept", "a turn is written", "a turn is queued"],
)
async def test_a_worker_that_dies_anywhere_is_followed_and_no_line_is_asked_twice(
    carla: User, runner: Runner, monkeypatch: pytest.MonkeyPatch, place: str
):
    batch = await in_thread(send, carla, [line(str(at)) for at in range(5)], start=False)
    has_died = die_at(monkeypatch, place)
    await in_thread(start_batch, batch)
    with pytest.raises(Died):
        await in_thread(driving.drive, 5)
    assert has_died()

    await sweep(monkeypatch)
    batch = await work_off(batch)
    assert (batch.status, batch.completed, batch.failed) == ("completed", 5, 0)
    assert await in_thread(check_bill, batch) == 5 * COST
    assert [one["custom_id"] for one in await in_thread(results, batch)] == list("01234")


async def test_answers_are_kept_while_no_worker_is_there_and_when_redis_is_emptied(
    carla: User, runner: Runner, redis: Any
):
    batch = await in_thread(send, carla, [line(str(at)) for at in range(4)])
    await in_thread(driving.drive, 0.2)
    await eventually(partial(in_thread, lambda: BatchLine.objects.filter(status="done").count() == 4))
    await in_thread(sync_redis().flushall)
    batch = await work_off(batch)
    assert (batch.status, batch.completed) == ("completed", 4)
    assert await in_thread(check_bill, batch) == 4 * COST


async def sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time pass, and do what beat does then."""
    monkeypatch.setattr(sweeping, "QUEUED_GRACE", dt.timedelta(0))
    await in_thread(let_time_pass)
    await repair_turns()
    await in_thread(let_time_pass)


async def test_what_redis_loses_before_it_was_answered_is_asked_again(
    carla: User, settings: Settings, redis: Any, monkeypatch: pytest.MonkeyPatch
):
    batch = await in_thread(send, carla, [line(str(at)) for at in range(4)])
    await in_thread(driving.drive, 0.2)
    assert await in_thread(BatchLine.objects.filter(status="open").count) == 4
    await in_thread(sync_redis().flushall)
    await sweep(monkeypatch)
    settings.DRAIN_SECONDS = 0
    async with running():
        batch = await work_off(batch)
    assert (batch.status, batch.completed) == ("completed", 4)
    assert await in_thread(check_bill, batch) == 4 * COST


async def test_an_answer_and_its_payment_are_one_transaction(
    carla: User, runner: Runner, monkeypatch: pytest.MonkeyPatch
):
    keep, broken = closing.keep_answer, []

    def break_or_keep(*arguments: Any, **named: Any) -> None:
        if broken != ["mended"]:
            broken.append("broken")
            raise RuntimeError
        keep(*arguments, **named)

    monkeypatch.setattr(closing, "keep_answer", break_or_keep)
    batch = await in_thread(send, carla, [line("a")])
    await in_thread(driving.drive, 0.1)
    await until(lambda: broken)
    await asyncio.sleep(0.2)
    assert not await in_thread(UsageRecord.objects.exists)
    assert (await in_thread(now, batch)).done == 0
    broken[:] = ["mended"]
    monkeypatch.setattr(driving, "LOST_AFTER", dt.timedelta(0))
    batch = await work_off(batch)
    assert (batch.status, batch.completed) == ("completed", 1)
    assert await in_thread(check_bill, batch) == COST


async def test_two_workers_that_take_it_from_each_other_ask_no_line_twice(
    carla: User, runner: Runner, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(states, "CLAIM_LASTS", dt.timedelta(seconds=-10))
    batch = await in_thread(send, carla, [line(str(at)) for at in range(20)])
    both = await asyncio.gather(work_off(batch), work_off(batch))
    assert {(one.status, one.completed, one.failed) for one in both} == {("completed", 20, 0)}
    assert await in_thread(check_bill, batch) == 20 * COST


async def test_a_store_that_is_away_is_waited_for(carla: User, runner: Runner, monkeypatch: pytest.MonkeyPatch):
    """It goes while a line is opened, and nobody knows whether it was."""
    monkeypatch.setattr(driving, "LOST_AFTER", dt.timedelta(0))
    batch = await in_thread(send, carla, [line(str(at)) for at in range(4)])
    opening, waiting, away = driving.open_completion, driving.count_waiting, []

    def open_and_break(*arguments: Any) -> Any:
        opened = opening(*arguments)
        if len(away) < 2:
            away.append("opened")
            raise Unavailable
        return opened

    def break_twice(most: int) -> int:
        if len(away) < 4:
            away.append("counted")
            raise RedisError
        return waiting(most)

    monkeypatch.setattr(driving, "open_completion", open_and_break)
    monkeypatch.setattr(driving, "count_waiting", break_twice)
    batch = await work_off(batch)
    assert len(away) == 4
    assert (batch.status, batch.completed, batch.failed) == ("completed", 4, 0)
    assert await in_thread(check_bill, batch) == 4 * COST


# --- How it ends ------------------------------------------------------------------------------------------------------


async def test_a_limit_is_never_exceeded_and_the_rest_is_not_asked(carla: User, runner: Runner):
    lines = [line(str(at), max_tokens=5) for at in range(10)]
    most = (await in_thread(partial(send, carla, lines, start=False))).most_micros // 10
    limit = 3 * most - 1
    batch = await work_off(await in_thread(partial(send, carla, lines, max_cost_micros=limit)))
    assert (batch.status, batch.error) == ("stopped", "max_cost")
    assert limit - most < batch.cost_micros <= limit
    assert await in_thread(check_bill, batch) == batch.cost_micros
    found = await in_thread(results, batch)
    assert len(found) == 10
    assert found[-1]["response"] is None
    assert found[-1]["error"]["code"] == "max_cost"
    assert (found[-1]["cost_micros"], batch.done) == (0, len([one for one in found if one["response"]]))


def test_what_another_line_gives_back_at_that_moment_is_used(carla: User, monkeypatch: pytest.MonkeyPatch):
    batch = send(carla, [line("a"), line("b")])
    opening, asked, reset = driving.open_completion, [], timezone.now()

    def open_or_refuse(*arguments: Any) -> Any:
        asked.append(arguments)
        if len(asked) == 1:
            raise AllowanceUsedUp(resets_at=reset)
        return opening(*arguments)

    monkeypatch.setattr(driving, "open_completion", open_or_refuse)
    driving.drive(0.3)
    assert len(asked) == 3
    assert (now(batch).status, BatchLine.objects.filter(status="open").count()) == ("running", 2)


async def test_not_even_input_that_was_estimated_too_low_goes_beyond_a_limit(carla: User, runner: Runner):
    lines = [line("a", "say:hola usage:900/3", max_tokens=5)]
    most = (await in_thread(partial(send, carla, lines, start=False))).most_micros
    batch = await work_off(await in_thread(partial(send, carla, lines, max_cost_micros=most)))
    assert (batch.status, batch.completed, batch.cost_micros) == ("completed", 1, most)
    assert await in_thread(check_bill, batch) == most
    [found] = await in_thread(results, batch)
    assert found["response"]["body"]["usage"]["cost_micros"] == found["cost_micros"] == most


async def test_what_a_slow_worker_opens_after_the_end_is_not_paid(carla: User, monkeypatch: pytest.MonkeyPatch):
    batch = await in_thread(send, carla, [line("a"), line("b")])
    opening, opened = driving.open_completion, []

    def open_late(*arguments: Any) -> Any:
        if not opened:  # meanwhile another worker ends the batch
            cancel_batch(batch)
            let_time_pass()
            while not now(batch).is_over:
                driving.drive(0.2)
        opened.append(opening(*arguments))
        return opened[-1]

    monkeypatch.setattr(driving, "open_completion", open_late)
    await in_thread(driving.drive, 1)
    assert len(opened) == 1
    async with running():
        await asyncio.sleep(0.3)
    cancelled = await in_thread(now, batch)
    assert cancelled.status == "cancelled"
    with translation.override("es"):
        assert cancelled.get_status_display() == "cancelado"  # a subscription is “cancelada”
    assert await in_thread(check_bill, batch) == 0


def test_what_is_started_at_that_moment_is_cancelled(carla: User, monkeypatch: pytest.MonkeyPatch):
    batch = send(carla, [line("a")], start=False)
    fields_of = beginning.webhook_fields

    def start_meanwhile(found: Batch) -> dict[str, Any]:
        start_batch(now(batch))
        return fields_of(found)

    monkeypatch.setattr(beginning, "webhook_fields", start_meanwhile)
    assert cancel_batch(batch).status == "stopping"


async def test_who_cancels_pays_for_what_was_written(carla: User, runner: Runner):
    lines = [line("a"), line("b", "say:algo wait:30"), line("c", "wait:30"), *(line(str(at)) for at in range(20))]
    batch = await in_thread(send, carla, lines)
    for _ in range(200):
        await in_thread(driving.drive, 0.02)
        if (await in_thread(now, batch)).completed >= 10:
            break
    cancelled = await in_thread(cancel_batch, batch)
    assert cancelled.status == "stopping"
    batch = await work_off(batch)
    assert (batch.status, batch.error) == ("cancelled", "")
    found = {one["custom_id"]: one for one in await in_thread(results, batch)}
    assert len(found) == len(lines)
    assert found["a"]["response"]["status_code"] == 200
    assert found["b"]["response"]["status_code"] == 409
    assert found["b"]["cost_micros"] > 0
    assert await in_thread(check_bill, batch) == sum(one["cost_micros"] for one in found.values())
    assert (await in_thread(cancel_batch, batch)).status == "cancelled"


def suspend(user: User, _key: ApiKey) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)


def leave(user: User, _key: ApiKey) -> None:
    User.objects.filter(pk=user.pk).update(closes_at=timezone.now())


def downgrade(_user: User, _key: ApiKey) -> None:
    change_plans(has_batches=False)


def revoke(_user: User, key: ApiKey) -> None:
    revoke_key(key, peer="")


def use_up(user: User, _key: ApiKey) -> None:
    change_plans(credits_per_month=0)
    account_of(user.pk).periods.update(allowance_micros=0)


@pytest.mark.parametrize(
    ("happens", "error"),
    [
        (suspend, "account_suspended"),
        (leave, "account_closing"),
        (downgrade, "batches_not_in_plan"),
        (revoke, "key_not_valid"),
        (use_up, "allowance_used_up"),
    ],
)
async def test_what_ends_the_right_to_ask_ends_the_batch_with_what_is_there(
    carla: User, runner: Runner, monkeypatch: pytest.MonkeyPatch, happens: Any, error: str
):
    monkeypatch.setattr(driving, "LOOK_SECONDS", 0.0)
    terms = KeyTerms(name="Nightly", scopes=("chat",))
    key, _secret = await in_thread(partial(make_key, carla, terms, peer="", key_id=uuid4()))
    batch = await in_thread(partial(send, carla, [line(str(at)) for at in range(30)], key=key))
    for _ in range(200):
        await in_thread(driving.drive, 0.02)
        if (await in_thread(now, batch)).completed:
            break
    await in_thread(happens, carla, key)
    batch = await work_off(batch)
    assert (batch.status, batch.error) == ("stopped", error)
    assert 0 < batch.completed < 30
    assert len(await in_thread(results, batch)) == 30
    await in_thread(check_bill, batch)


async def test_a_line_that_is_refused_by_now_is_a_result(carla: User, runner: Runner):
    batch = await in_thread(send, carla, [line("a"), line("b")], start=False)
    await in_thread(partial(LanguageModel.objects.filter(key="scripted").update, enabled=False))
    caching.forget_everything()
    await in_thread(start_batch, batch)
    batch = await work_off(batch)
    assert (batch.status, batch.failed, batch.cost_micros) == ("completed", 2, 0)
    [one, _two] = await in_thread(results, batch)
    assert one["response"]["status_code"] == 404
    assert one["response"]["body"]["error"]["code"] == "model_not_found"


# --- The API ----------------------------------------------------------------------------------------------------------


def test_sent_checked_started_cancelled_and_erased_over_the_api(carla: User, api: Any, folder: Any):
    program: APIClient = api(carla)
    sent = program.post("/api/v1/batches", {"file": as_file([line("a"), line("b")])}, format="multipart")
    assert (sent.status_code, sent.json()["status"], sent.json()["webhook_secret"]) == (202, "validating", None)
    place = f"/api/v1/batches/{sent.json()['id']}"
    assert program.post(f"{place}/start", {}, format="json").json()["code"] == "batch_not_ready"
    driving.drive(0.3)
    found = program.get(place).json()
    assert (found["status"], found["total"], found["cost_micros"]) == ("validated", 2, 0)
    assert found["most_micros"] >= found["estimate_micros"] > 0
    started = program.post(f"{place}/start", {"max_cost_micros": 5_000}, format="json")
    assert (started.status_code, started.json()["status"], started.json()["max_cost_micros"]) == (200, "running", 5_000)
    assert program.delete(place).json()["code"] == "batch_running"
    assert program.post(f"{place}/cancel").json()["status"] == "stopping"
    driving.drive(0.3)
    assert program.get(place).json()["status"] == "cancelled"
    answer = program.get(f"{place}/results")
    assert answer["Content-Type"] == "application/jsonl"
    assert [json.loads(one)["error"]["code"] for one in body_of(answer).splitlines()] == ["batch_cancelled"] * 2
    assert program.get("/api/v1/batches").json()["results"][0]["id"] == sent.json()["id"]
    assert program.delete(place).status_code == 204
    assert program.get(place).json()["code"] == "not_found"
    assert (Batch.objects.count(), BatchLine.objects.count(), files(folder)) == (0, 0, [])


def test_what_is_not_taken(carla: User, ana: User, api: Any, settings: Settings):
    def sent(user: User, file: Any, **fields: Any) -> tuple[int, str]:
        answer = api(user).post("/api/v1/batches", {"file": file} | fields, format="multipart")
        return answer.status_code, answer.json().get("code", "")

    assert sent(carla, SimpleUploadedFile("x.jsonl", b"")) == (400, "batch_missing")
    for url in ("http://example.com", "https://10.0.0.1/", "https://[::ffff:127.0.0.1]/", "https://localhost/x", "x"):
        assert sent(carla, as_file([line("a")]), webhook_url=url) == (400, "bad_webhook")
    settings.BATCHES_AT_ONCE = 1
    assert sent(carla, as_file([line("a")]))[0] == 202
    assert sent(carla, as_file([line("a")])) == (409, "too_many_batches")
    settings.BATCH_BYTES = 3
    assert sent(carla, as_file([line("a")])) == (413, "batch_too_large")
    change_plans(has_batches=False)
    assert sent(ana, as_file([line("a")])) == (403, "batches_not_in_plan")


def test_a_batch_is_its_owners_and_of_the_key_that_sent_it(carla: User, bo: User, api: Any):
    def program(*scopes: str) -> APIClient:
        terms = KeyTerms(name="Nightly", scopes=scopes)
        return APIClient(headers={"authorization": f"Bearer {make_key(carla, terms, peer='', key_id=uuid4())[1]}"})

    asking, other, reading = program("chat"), program("chat"), program("chat", "history")
    sent = asking.post("/api/v1/batches", {"file": as_file([line("a")])}, format="multipart").json()
    for one, status in ((asking, 200), (reading, 200), (api(carla), 200), (other, 404), (api(bo), 404)):
        for path in ("", "/results"):
            answer = one.get(f"/api/v1/batches/{sent['id']}{path}")
            assert answer.status_code == status
        assert len(one.get("/api/v1/batches").json()["results"]) == (status == 200)
        if one in (reading, other) or status == 404:  # whatever it reads, it uses its own month and models alone
            for act in ("start", "cancel"):
                assert one.post(f"/api/v1/batches/{sent['id']}/{act}", {}, format="json").status_code == 404
    assert program("usage").get("/api/v1/batches").json()["code"] == "key_not_allowed"
    assert asking.delete(f"/api/v1/batches/{sent['id']}").json()["code"] == "key_not_allowed"


def test_old_batches_go(carla: User, settings: Settings, folder: Any):
    batch = send(carla, [line("a")], start=False)
    assert len(files(folder)) == 1
    repair_batches()
    assert Batch.objects.exists()
    Batch.objects.update(created_at=timezone.now() - dt.timedelta(days=settings.BATCH_DAYS, minutes=1))
    repair_batches()
    assert (Batch.objects.count(), BatchLine.objects.count(), files(folder)) == (0, 0, [])
    assert batch.pk


def test_operators_see_how_a_batch_is_and_nothing_of_what_is_in_it(carla: User, olga: User):
    batch = send(carla, [line("secret-id"), b"secret text"])
    other = send(carla, [line("secret-id", "secret text")], start=False, webhook_url="https://secret.example/")
    operator = Client()
    operator.force_login(olga)
    for path in ("", f"{batch.pk}/change/", f"{other.pk}/change/"):
        page = operator.get(f"/admin/chat/batch/{path}", follow=True)
        assert page.status_code == 200
        assert str(carla.pk) in page.text
        assert not any(word in page.text for word in ("secret-id", "secret text", "secret.example", "questions.jsonl"))
    assert operator.post(f"/admin/chat/batch/{batch.pk}/delete/").status_code == 403
