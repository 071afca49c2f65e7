"""A member who has done everything closes their account, and when their time of grace is over nothing of them is left
in any store: it is looked for in every table, every key and every file, not where we know that it was."""

import datetime as dt
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db.models import Sum
from django.test import Client
from django.utils import timezone
from pytest_django import Settings
from redis.asyncio import Redis
from rest_framework.test import APIClient

from accounts import closure, leaving
from accounts.api.views import tokens_for
from accounts.keys import KeyTerms, make_key
from accounts.models import ApiKey, Closure, User
from billing import outbox
from billing.entitlements import account_of
from billing.models import BillingAccount, Payment, Plan, Price, Purchase, Spending, Subscription, UsageRecord
from billing.seeds import load_prices
from billing.subscriptions import apply
from chat.attachments.sweeping import repair_attachments
from chat.batches.driving import drive
from chat.batches.sweeping import repair_batches
from chat.models import Batch, HistoryNotice
from chat.shown import staff_reading
from chat.shown.fragments import description_of
from chat.turns.runner import Runner
from chat.turns.sweeping import repair_turns
from config import settings as site
from core.redis_clients import sync_redis
from core.threads import in_thread
from history import access, folders, share_copies, sharing, temporary, trash
from history.models import Turn
from history.sharing import Terms
from history.transfer import exporting, importing
from history.transfer.sweeping import repair_transfers
from tests.billing import fake_gateway
from tests.chat import batching
from tests.chat.asking import aask, closed, finished
from tests.chat.attaching import attached, ids
from tests.chat.batching import line, send
from tests.chat.conftest import Offer
from tests.chat.test_completions import answered as completion
from tests.chat.test_temporary import ask_in
from tests.chat.walking import traces_of
from tests.history.carrying import work_off
from tests.history.sources import as_json, chatgpt_tree

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

USER_ID = 7_340_126_598
"""No other number has these digits."""
EMAIL, NEW_EMAIL, NAME, PASSWORD = "leonor@secreta.example", "nueva@secreta.example", "Leonorcita", "una clave larga"
ASKED, FILE = "pregunta-delatora", "archivo-delator"
SECRETS = (
    *(EMAIL, NEW_EMAIL, NAME, ASKED, FILE),
    *("lote-delator", "aviso-delator", "archivo-de-lote-delator"),
    *("carpeta-delatora", "instrucciones-delatoras", "llave-delatora", "factor-delator", "cuenta-delatora"),
)
PAID = ("impuesto-delator", "recibo-delator", "queja-delatora", "pagador@secreta.example")


@pytest.fixture(autouse=True)
def stores(settings: Settings, tmp_path: Path, catalog: None) -> None:
    options = {**site.STORAGES["transfers"]["OPTIONS"], "location": tmp_path / "transfers"}
    settings.STORAGES = {**site.STORAGES, "transfers": {**site.STORAGES["transfers"], "OPTIONS": options}}
    settings.GATEWAYS = {"fake": "tests.billing.fake_gateway.FakeGateway"}
    settings.CACHE_TTL = 600
    fake_gateway.state.__init__()  # type: ignore[misc]  # as new
    load_prices("fake", "USD")


@pytest.fixture
def leonor(catalog: None) -> User:
    user = User.objects.create_user(EMAIL, PASSWORD, pk=USER_ID, name=NAME, locale="en")
    EmailAddress.objects.create(user=user, email=EMAIL, verified=True, primary=True)
    EmailAddress.objects.create(user=user, email=NEW_EMAIL)
    BillingAccount.objects.create(user=user, plan=Plan.objects.order_by("-rank").first(), grant_reason="Prueba")
    return user


def pay(user: User) -> None:
    price = Price.objects.get(reference="premium-month-usd")
    apply(fake_gateway.bought(user, price, at=timezone.now() - dt.timedelta(days=1)))
    personal = dict.fromkeys(Payment.PERSONAL, PAID[0]) | {"receipt_url": PAID[1], "refund_reason": PAID[2]}
    Payment.objects.update(**personal)
    account = account_of(user.pk)
    Purchase.objects.create(key="k", account=account, price=price, kind="subscription", payer_email=PAID[3])


def be_dealt_with_by_the_staff_and_be_of_it(user: User, olga: User, conversation_id: Any, of_bo: Turn) -> None:
    staff_reading.begin_reading(conversation_id, staff=olga, reason=f"{ASKED} no sale", peer="192.0.2.1")
    staff_reading.begin_reading(of_bo.conversation_id, staff=user, reason="Bo pide ayuda.", peer="192.0.2.1")
    now = timezone.now()
    HistoryNotice.objects.create(user=user, days=30, sent_at=now, goes_at=now)
    users = ContentType.objects.get_for_model(User)
    for by, about in ((olga, user), (user, olga)):
        LogEntry.objects.create(
            user=by, content_type=users, object_id=str(about.pk), object_repr=about.email, action_flag=CHANGE
        )


def have_a_second_factor(user: User) -> None:
    """After the log-ins, which would ask for it."""
    Authenticator.objects.create(user=user, type=Authenticator.Type.TOTP, data={"secret": "factor-delator"})
    SocialAccount.objects.create(user=user, provider="google", uid="cuenta-delatora", extra_data={"name": EMAIL})


def use_pages_and_programs(user: User) -> str:
    """Log in everywhere, look around, and return a key."""
    browser = Client(HTTP_ACCEPT_LANGUAGE="en")
    browser.post("/accounts/login/", {"login": EMAIL, "password": "una clave corta"})
    assert browser.post("/accounts/login/", {"login": EMAIL, "password": PASSWORD}).status_code == 302
    for path in ("/", "/settings/", "/usage/", f"/search/?q={ASKED}", "/settings/history/", "/dashboard/"):
        assert browser.get(path).status_code == 200, path
    program = APIClient(HTTP_AUTHORIZATION=f"Bearer {tokens_for(user)['access']}")
    for path in ("conversations", f"search?q={ASKED}", "usage", "allowance"):
        assert program.get(f"/api/v1/{path}").status_code == 200, path
    assert program.post("/api/v1/socket-tickets").status_code == 201
    terms = KeyTerms(name="llave-delatora", scopes=("chat", "history"), monthly_credits=100, requests_per_minute=60)
    return make_key(user, terms, peer="192.0.2.1", key_id=uuid4())[1]


def keep_in_order(user: User, shared: Turn, of_other: Turn) -> None:
    conversation = access.access_conversation(user.pk, shared.conversation_id)
    folders.create_folder(user.pk, name="carpeta-delatora", instructions="instrucciones-delatoras")
    share = sharing.create_share(conversation, Terms(author=NAME), description_of, share_id=uuid4())
    sharing.report_share(share, "spam", f"{ASKED} otra vez", report_id=uuid4())
    theirs = access.access_conversation(of_other.owner_id, of_other.conversation_id)
    other = sharing.create_share(theirs, Terms(), description_of, share_id=uuid4())
    share_copies.copy_share(other, user.pk, uuid4())
    Turn.objects.filter(pk=shared.pk).update(embedding=b"leonor@secreta.example", embedded_by=1)
    trashed = finished(user)
    trash.trash_conversations(user.pk, [trashed.conversation_id])


def take_along(user: User) -> None:
    work_off(importing.begin_import(user.pk, SimpleUploadedFile(f"{FILE}.json", as_json(chatgpt_tree()))))
    importing.begin_import(user.pk, SimpleUploadedFile(f"{FILE}-2.json", ASKED.encode()))
    exporting.make_export(exporting.begin_export(user.pk).pk)


async def ask_in_batches(user: User) -> None:
    """One batch that is over, one that waits to be started, and one that runs when the account is closed."""
    lines = [line("lote-delator", f"say:{ASKED} usage:10/3")]
    url = "https://aviso-delator.example/"
    assert (await batching.work_off(await in_thread(send, user, lines))).completed == 1
    await in_thread(partial(send, user, lines, start=False, webhook_url=url))
    await in_thread(send, user, [line(str(at), "wait:1") for at in range(50)])
    await in_thread(partial(Batch.objects.update, name="archivo-de-lote-delator.jsonl"))


def let_closure_pass() -> None:
    """Let the five minutes pass that a closure takes: what Redis keeps for no longer is gone then, and what was to be
    done by workers is done."""
    late = timezone.now() - closure.LATECOMERS - dt.timedelta(seconds=1)
    Closure.objects.update(created_at=late)
    for key in sync_redis().scan_iter():
        if 0 < sync_redis().pttl(key) <= closure.LATECOMERS.total_seconds() * 1_000:
            sync_redis().delete(key)
    sync_redis().delete("celery")


def one_pass() -> None:
    drive(0.2)
    repair_batches()


async def sweep() -> None:
    for repair in (leaving.finish_leaving, outbox.do_due, repair_transfers, repair_attachments, one_pass):
        await in_thread(repair)
    await repair_turns()


async def test_nothing_is_left_of_a_member_who_did_everything(
    redis: Redis, runner: Runner, leonor: User, bo: User, olga: User, offer: Offer
):
    await in_thread(offer, "fake-3t-0ms")
    secret = await in_thread(use_pages_and_programs, leonor)
    file = await in_thread(attached, leonor, FILE.encode(), f"{FILE}.txt")
    await in_thread(attached, leonor)
    shared = await closed(await aask(leonor, f"say:{ASKED}", attachments=ids(file)))
    await closed(await aask(leonor, ASKED, model="fake-3t-0ms"))
    of_bo = await closed(await aask(bo, "say:hola"))
    await completion(secret, f"say:{ASKED}")
    talk = await in_thread(temporary.begin_conversation, leonor.pk)
    await in_thread(partial(ask_in, leonor, talk, f"say:{ASKED}"))
    await in_thread(keep_in_order, leonor, shared, of_bo)
    await in_thread(be_dealt_with_by_the_staff_and_be_of_it, leonor, olga, shared.conversation_id, of_bo)
    await in_thread(pay, leonor)
    await in_thread(have_a_second_factor, leonor)
    await ask_in_batches(leonor)
    await in_thread(take_along, leonor)
    key = await in_thread(ApiKey.objects.get)
    secrets = (*SECRETS, *PAID, key.digest, key.prefix, leonor.seal, leonor.password, secret)
    before = await in_thread(traces_of, USER_ID, *secrets)
    assert all(any(one.endswith(f": {secret}") for one in before) for secret in (*SECRETS, *PAID, "id"))
    records = await in_thread(UsageRecord.objects.count)
    assert records >= 4

    await in_thread(partial(leaving.begin_leaving, leonor, peer="192.0.2.1"))
    member = Client()
    assert (await in_thread(member.post, "/accounts/login/", {"login": EMAIL, "password": PASSWORD})).status_code == 302
    await sweep()
    assert await in_thread(User.objects.filter(pk=USER_ID).exists)
    over = timezone.now() - dt.timedelta(seconds=1)
    await in_thread(partial(User.objects.filter(pk=USER_ID).update, closes_at=over))
    await sweep()
    await in_thread(let_closure_pass)
    await sweep()

    left = await in_thread(traces_of, USER_ID, *secrets)
    assert not left, "\n".join(left)
    assert not await in_thread(Closure.objects.exists)
    assert {row.owner_id for row in await in_thread(list, Turn.objects.all())} == {bo.pk}
    acts = [call[0] for call in fake_gateway.state.calls]
    assert acts == ["cancel_at_period_end", "cancel_now", "forget_customer"]
    assert await in_thread(UsageRecord.objects.count) >= records
    spent = await in_thread(UsageRecord.objects.aggregate, Sum("spent_micros"))
    used = await in_thread(Spending.objects.aggregate, Sum("used_micros"))
    assert used["used_micros__sum"] == spent["spent_micros__sum"] > 0
    [account] = await in_thread(list, BillingAccount.objects.filter(user=None))
    assert account.holds == 0
    assert await in_thread(Payment.objects.filter(subscription__account=account).count) == 1
    assert await in_thread(Subscription.objects.filter(account=account).count) == 1
