"""A person is deleted: what is theirs goes, in every store, and what was paid stays without their name."""

import asyncio
import datetime as dt
from functools import partial
from typing import Any

import pytest
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.cache import KEY_PREFIX
from django.core.cache import cache
from django.db import transaction
from django.db.models import Sum
from django.test import Client
from django.utils import timezone
from pytest_django import Settings
from redis.asyncio import Redis

from accounts import closure
from accounts.api.views import tokens_for
from accounts.models import Closure, TokenFamily, User
from accounts.signals import access_revoked, account_closed
from billing import entitlements
from billing.models import BillingAccount, Spending, UsagePeriod, UsageRecord
from chat.models import Attachment, ProviderLimit
from chat.shown.fragments import description_of
from chat.turns import log, sweeping
from chat.turns.opening import open_turn
from chat.turns.runner import Runner
from chat.turns.sweeping import repair_turns
from core.errors import NotFound
from core.redis_clients import sync_redis
from core.threads import in_thread
from history import access, sharing, tree
from history.models import Conversation, Turn
from history.sharing import Terms
from testbed.provider import FakeProvider
from tests.accounts.doors import ask_again
from tests.chat.asking import aask, ask, closed, eventually, finished, question, record_of
from tests.chat.attaching import attached, ids
from tests.chat.conftest import Offer
from tests.chat.dying import Died, die, elsewhere, grow_old, lose_runner
from tests.chat.everything import everything_stored
from tests.chat.live import page_of

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

SECRETS = ("ana@example.com", "anita", "pregunta-secreta", "respuesta-secreta", "archivo-secreto", "t0 t1")


def found_secrets() -> set[str]:
    stored = everything_stored()
    return {secret for secret in SECRETS if secret in stored}


def log_in(user: User, password: str = "una clave larga") -> Client:
    """Log in as a browser does, with all that is put into a session then."""
    browser = Client(HTTP_ACCEPT_LANGUAGE="en")
    answer = browser.post("/accounts/login/", {"login": user.email, "password": password})
    assert answer.status_code == 302
    return browser


def logged_in() -> set[int]:
    """Who has a session."""
    keys = [KEY_PREFIX + key.decode().partition(KEY_PREFIX)[2] for key in sync_redis().scan_iter(f"*{KEY_PREFIX}*")]
    return {int(found[SESSION_KEY]) for found in cache.get_many(keys).values() if SESSION_KEY in found}


def grow_late() -> None:
    Closure.objects.update(created_at=timezone.now() - closure.LATECOMERS - dt.timedelta(seconds=1))


def delete_in_the_admin(operator: User, user: User) -> None:
    browser = ask_again(log_in(operator), operator)
    name = f"/admin/accounts/user/{user.pk}"
    fields = {"email": user.email, "name": "anita", "locale": "es", "time_zone": "UTC", "theme": "system"}
    assert browser.post(f"{name}/change/", {**fields, "is_active": "on"}).status_code == 302  # into the admin's log
    assert browser.post(f"{name}/delete/", {"post": "yes"}).status_code == 302


async def test_nothing_of_a_deleted_person_is_left_but_sums_without_a_name(
    redis: Redis,
    runner: Runner,
    ana: User,
    olga: User,
    bo: User,
    offer: Offer,
    provider: FakeProvider,
    settings: Settings,
):
    settings.CACHE_TTL = 600
    await in_thread(ProviderLimit.objects.create, provider="compatible", daily_micros=10**9)
    await in_thread(offer, "fake-3t-0ms")
    slow = await in_thread(offer, "fake-900t-20ms-f0")
    await in_thread(log_in, ana)
    await in_thread(tokens_for, ana)
    file = await in_thread(attached, ana, b"archivo-secreto", "archivo-secreto.txt")
    await in_thread(attached, ana)
    said = "say:respuesta-secreta pregunta-secreta"
    shared = await closed(await aask(ana, said, attachments=ids(file)))
    conversation = await in_thread(access.access_conversation, ana.pk, shared.conversation_id)
    await in_thread(partial(sharing.create_share, conversation, Terms(), description_of, share_id=shared.pk))
    await closed(await aask(ana, "pregunta-secreta", model="fake-3t-0ms"))
    await closed(await aask(bo, "say:hola"))
    turn = await aask(ana, "pregunta-secreta", model=slow.key)
    await eventually(lambda: redis.xlen(log.log_key(turn.pk)))
    assert await in_thread(found_secrets) == set(SECRETS) - {"anita"}
    used = await in_thread(UsageRecord.objects.count)

    await in_thread(delete_in_the_admin, olga, ana)
    await eventually(lambda: in_thread(lambda: provider.stats().aborted == 1))
    assert await in_thread(found_secrets) == set()
    await in_thread(grow_late)
    await repair_turns()
    assert not await in_thread(Closure.objects.exists)
    assert await in_thread(found_secrets) == set()
    assert [row.owner_id for row in await in_thread(list, Turn.objects.all())] == [bo.pk]
    assert not await in_thread(TokenFamily.objects.exists)
    assert (await in_thread(record_of, turn)).cost_micros > 0
    assert await in_thread(UsageRecord.objects.count) == used + 1
    spent = await in_thread(UsageRecord.objects.aggregate, Sum("spent_micros"))
    assert await in_thread(Spending.objects.aggregate, Sum("used_micros")) == {
        "used_micros__sum": spent["spent_micros__sum"]
    }
    [period] = await in_thread(list, UsagePeriod.objects.select_related("account").filter(account__user=None))
    assert (period.account.holds, period.reserved_micros) == (0, 0)


async def test_the_sockets_of_a_deleted_person_are_closed(redis: Redis, ana: User, bo: User):
    async with page_of(ana) as page, page_of(bo) as other:
        await in_thread(ana.delete)
        assert await page.closing() == 4401
        await other.settled()
        assert other.closed_with is None


def test_people_deleted_by_a_query_are_erased(ana: User, carla: User, bo: User):
    for user in (ana, carla, bo):
        ask(user)
    User.objects.filter(pk__in=(ana.pk, carla.pk)).delete()
    assert [row.owner_id for row in Turn.objects.all()] == [bo.pk]


def test_a_deletion_that_is_rolled_back_erases_nothing(ana: User):
    ask(ana)
    with pytest.raises(RuntimeError), transaction.atomic():
        User.objects.get(pk=ana.pk).delete()
        raise RuntimeError
    assert Turn.objects.count() == 1
    assert not Closure.objects.exists()


def test_a_closure_that_dies_is_finished_by_the_sweep(ana: User, monkeypatch: pytest.MonkeyPatch):
    attached(ana)
    ask(ana)

    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(closure, "_erase_sessions", die)
        ana.delete()
    assert Turn.objects.exists()
    closure.finish_closures()
    assert not Turn.objects.exists()
    assert not Attachment.objects.exists()


def test_a_closure_that_fails_keeps_no_other_from_its_end(ana: User, carla: User):
    gone = {user.pk for user in (ana, carla)}

    def fail(user_id: int, **_signal: Any) -> bool:
        if user_id == min(gone):
            raise RuntimeError
        return True

    account_closed.connect(fail)
    try:
        User.objects.filter(pk__in=gone).delete()
        grow_late()
        closure.finish_closures()
        assert [row.user_id for row in Closure.objects.all()] == [min(gone)]
    finally:
        account_closed.disconnect(fail)
    closure.finish_closures()
    assert not Closure.objects.exists()


def test_sessions_are_read_once_for_all_who_are_gone(ana: User, carla: User, bo: User):
    for user in (ana, carla, bo):
        Client().force_login(user)
    cache.set(f"{KEY_PREFIX}odd", ["no session"])
    told: list[int] = []

    def hear(user_id: int, **_signal: Any) -> None:
        told.append(user_id)

    access_revoked.connect(hear)
    gone = {ana.pk, carla.pk}
    try:
        User.objects.filter(pk__in=gone).delete()
        assert logged_in() == {bo.pk}
        sync_redis().config_resetstat()
        closure.finish_closures()
        assert "cmdstat_scan" not in sync_redis().info("commandstats")
        assert sorted(told) == sorted(gone)
        cache.set(f"{KEY_PREFIX}late", {SESSION_KEY: str(carla.pk)})
        grow_late()
        closure.finish_closures()
        assert not Closure.objects.exists()
    finally:
        access_revoked.disconnect(hear)
    assert sync_redis().info("commandstats")["cmdstat_scan"]["calls"] == 1
    assert logged_in() == {bo.pk}


async def test_a_person_deleted_while_their_runner_is_dead_is_erased_when_that_is_sure(
    redis: Redis, ana: User, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(closure, "PATIENCE_SECONDS", 0)
    monkeypatch.setattr(sweeping, "ORPHAN_SECONDS", 10**6)
    turn = await in_thread(lose_runner, await aask(ana, "pregunta-secreta"), "respuesta-secreta")
    await in_thread(ana.delete)
    for age in (grow_late, lambda: grow_old(turn, 3_600)):
        await in_thread(age)
        await repair_turns()
    assert await in_thread(Closure.objects.exists)
    monkeypatch.setattr(sweeping, "ORPHAN_SECONDS", 0)
    await repair_turns()
    await repair_turns()
    assert (await in_thread(record_of, turn)).cost_micros > 0
    assert await in_thread(found_secrets) == set()
    assert not await in_thread(Closure.objects.exists)


# --- Somebody asks meanwhile ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_new", [True, False])
def test_a_question_that_was_being_opened_is_caught_afterwards(
    ana: User, monkeypatch: pytest.MonkeyPatch, is_new: bool
):
    first = finished(ana)
    asked = (
        question("pregunta-secreta") if is_new else question("pregunta-secreta", conversation_id=first.conversation_id)
    )
    name = "start_conversation" if is_new else "add_turn"
    write = getattr(tree, name)

    def deleted_before(turn: Turn, **options: Any) -> Any:
        elsewhere(ana.delete)
        return write(turn, **options)

    monkeypatch.setattr(tree, name, deleted_before)
    if is_new:
        open_turn(ana.pk, asked)
    else:
        with pytest.raises(NotFound):
            open_turn(ana.pk, asked)
    asyncio.run(repair_turns())
    assert found_secrets() == set()
    assert not Conversation.objects.exists()
    assert not BillingAccount.objects.exclude(holds=0).exists()
    assert Closure.objects.exists()


def test_who_is_gone_is_refused_and_gets_no_new_account(ana: User):
    pk = ana.pk
    entitlements.account_of(pk)
    ana.delete()
    with pytest.raises(NotFound):
        open_turn(pk, question())
    with pytest.raises(NotFound):
        entitlements.account_of(pk)
    assert [row.user_id for row in BillingAccount.objects.all()] == [None]
