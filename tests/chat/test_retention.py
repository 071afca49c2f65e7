"""What was not used for long goes into the trash: never early, never untold, and in the end all of it."""

import datetime as dt
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core import mail
from django.db import connection, connections
from django.utils import timezone

from accounts.models import User
from billing.models import Plan
from chat.models import HistoryNotice
from chat.turns import retention
from core import caching, rows
from history import access, order, trash
from history.models import Conversation, Turn
from tests.chat.dying import Died
from tests.history.growing import ask, begin

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

DAY = dt.timedelta(days=1)


class Clock:
    def __init__(self) -> None:
        self.now = timezone.now()

    def pass_days(self, days: float) -> None:
        self.now += days * DAY


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, catalog: None) -> Clock:
    """The time of everybody. It is more than a day before what was made with the test is looked at."""
    clock = Clock()
    monkeypatch.setattr(timezone, "now", lambda: clock.now)
    clock.pass_days(1.1)
    return clock


@pytest.fixture
def english(ana: User) -> User:
    ana.locale = User.Locale.ENGLISH
    ana.save(update_fields=["locale"])
    return ana


def limit_plan(days: int | None) -> None:
    Plan.objects.update(history_days=days)
    caching.forget_everything()


def want(user: User, days: int | None) -> None:
    User.objects.filter(pk=user.pk).update(keep_history_days=days)


def old(user: User, days: float, title: str = "Saludos") -> Conversation:
    conversation = begin(user.pk, title)
    Conversation.objects.filter(pk=conversation.pk).update(updated_at=timezone.now() - days * DAY)
    return conversation


def is_there(conversation: Conversation) -> bool:
    return access.find_conversation(conversation.pk) is not None


def sweep_daily(clock: Clock, days: int) -> None:
    for _day in range(days):
        clock.pass_days(1.01)
        retention.look_at_due()


def test_a_downgrade_is_told_then_thirty_days_pass_then_what_is_old_goes(english: User, clock: Clock):
    long_ago, lately, pinned = old(english, 200), old(english, 10), old(english, 300)
    order.do(english.pk, "pin", {pinned.pk: None})
    retention.look_at_due()
    assert not mail.outbox
    limit_plan(90)
    sweep_daily(clock, 1)
    sent_at = clock.now
    [letter] = mail.outbox
    assert letter.to == [english.email]
    for part in ("for 90 days", "that is 1 conversation.", "pin it", "/settings/history/", "/pricing/", "30 days"):
        assert part in letter.body
    sweep_daily(clock, 29)
    assert clock.now < sent_at + 30 * DAY
    assert is_there(long_ago)
    sweep_daily(clock, 1)
    assert [is_there(one) for one in (long_ago, lately, pinned)] == [False, True, True]
    assert access.list_conversations(english.pk, "trash").rows == [long_ago]
    # Taken back, it is kept as if it had been used.
    trash.restore_conversations(english.pk, [long_ago.pk])
    sweep_daily(clock, 80)
    assert [is_there(one) for one in (long_ago, lately, pinned)] == [True, False, True]
    sweep_daily(clock, 12)
    assert not is_there(long_ago)
    assert len(mail.outbox) == 1


def test_a_mail_that_cannot_be_sent_is_no_notice(
    english: User, clock: Clock, monkeypatch: pytest.MonkeyPatch, settings: Any
):
    conversation = old(english, 100)
    want(english, 30)
    backend, settings.EMAIL_BACKEND = settings.EMAIL_BACKEND, retention.NO_MAIL
    sweep_daily(clock, 2)
    assert not HistoryNotice.objects.exists()
    settings.EMAIL_BACKEND = backend
    with monkeypatch.context() as away:
        away.setattr(retention, "send_mail", lambda **_letter: (_ for _ in ()).throw(OSError("no mail server")))
        sweep_daily(clock, 40)
    assert not HistoryNotice.objects.exists()
    assert is_there(conversation)
    sweep_daily(clock, 30)
    assert is_there(conversation)
    sweep_daily(clock, 1)
    assert not is_there(conversation)


def test_what_is_used_while_the_sweep_looks_stays_and_is_not_stopped(
    english: User, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    conversation, other = old(english, 100), old(english, 100)
    found = trash.list_unused

    def use_meanwhile(*arguments: Any, **named: Any) -> list[Conversation]:
        listed = found(*arguments, **named)
        ask(conversation, status=Turn.Status.QUEUED)
        return listed

    stopped: list[Any] = []
    monkeypatch.setattr(trash, "list_unused", use_meanwhile)
    monkeypatch.setattr(trash, "_announce_trashed", lambda _owner_id, ids: stopped.extend(ids))
    assert not trash.trash_unused(english.pk, timezone.now() - 90 * DAY)
    assert is_there(conversation)
    assert stopped == [other.pk]


def test_a_long_history_goes_in_portions_between_which_others_come(
    english: User, bo: User, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(trash, "PAGE_SIZE", 10)
    long_ago = timezone.now() - 200 * DAY
    Conversation.objects.bulk_create(
        Conversation(owner_id=english.pk, title="vieja", updated_at=long_ago - number * DAY) for number in range(25)
    )
    theirs = old(bo, 200)
    limit_plan(90)
    sweep_daily(clock, 31)
    trashed: Callable[[], int] = lambda: Conversation.objects.filter(trashed_at__isnull=False).count()  # noqa: E731
    assert trashed() == 11
    retention.look_at_due()
    assert trashed() == 21
    retention.look_at_due()
    assert trashed() == 26
    assert not is_there(theirs)
    if connections["history"].vendor == "sqlite":
        plan = trash._unused(english.pk, timezone.now()).order_by("updated_at").explain()
        assert "USING INDEX conversation_unused" in plan
        assert "ORDER BY" not in plan


def test_who_is_suspended_loses_nothing_and_is_told_again(english: User, clock: Clock):
    conversation = old(english, 100)
    want(english, 30)
    sweep_daily(clock, 2)
    User.objects.filter(pk=english.pk).update(is_active=False)
    sweep_daily(clock, 60)
    User.objects.filter(pk=english.pk).update(is_active=True)
    sweep_daily(clock, 30)
    assert is_there(conversation)
    assert len(mail.outbox) == 2


def test_a_shorter_limit_that_is_announced_again_and_again_does_not_lengthen_the_longer_one(
    english: User, clock: Clock
):
    conversation = old(english, 100)
    limit_plan(90)
    for _round in range(2):
        sweep_daily(clock, 8)
        want(english, 30)
        sweep_daily(clock, 8)
        want(english, None)
    sweep_daily(clock, 1)
    assert not is_there(conversation)


def test_the_limit_is_said_where_a_plan_is_sold_and_shown(english: User, clock: Clock, client: Any, api: Any):
    client.force_login(english)
    said = "kept for 90 days after their last use"
    assert said not in client.get("/pricing/").text + client.get("/billing/").text
    limit_plan(90)
    for page in ("/pricing/", "/billing/"):
        assert said in client.get(page).text
    assert api(english).get("/api/v1/plans").json()["results"][0]["history_days"] == 90


def test_the_page_says_what_goes_and_when_and_a_notice_is_on_the_lists(
    english: User, clock: Clock, client: Any, api: Any
):
    conversation = old(english, 100, "recetas viejas")
    client.force_login(english)
    assert "days at most" not in client.get("/settings/history/").text
    assert client.post("/settings/history/", {"keep_history_days": "31"}).status_code == 422
    assert client.post("/settings/history/", {"keep_history_days": "90"}).status_code == 302
    page = client.get("/settings/history/").text
    assert "Nothing goes before you have had a mail" in page
    assert "recetas viejas" in page
    retention.look_at_due()
    [notice] = HistoryNotice.objects.all()
    for path in ("/conversations/", "/conversations/archive/", "/conversations/trash/", "/dashboard/"):
        assert "What goes, and how to keep it" in client.get(path).text
    assert "that is 1 conversation." in client.get("/settings/history/").text
    clock.now = notice.goes_at
    sweep_daily(clock, 1)
    assert "when they were not used for 90 days" in client.get("/settings/history/").text
    assert "What goes, and how to keep it" not in client.get("/conversations/").text
    assert not is_there(conversation)
    # A choice that is longer than the plan's limit does not count; for ever is for ever without one.
    limit_plan(30)
    assert (
        api(english).patch("/api/v1/me", {"keep_history_days": 365}, format="json").json()["keep_history_days"] == 365
    )
    assert retention.limit_of(User.objects.get(pk=english.pk)) == retention.HistoryLimit(30, is_of_plan=True)
    assert "for 30 days at most" in client.get("/settings/history/").text
    limit_plan(None)
    client.post("/settings/history/", {"keep_history_days": "0"})
    assert retention.limit_of(User.objects.get(pk=english.pk)) is None
    sweep_daily(clock, 1)
    assert not HistoryNotice.objects.exists()


class World:
    """What people were told by mail, and until when it held; nothing goes that this does not permit."""

    def __init__(self, user: User, clock: Clock) -> None:
        self.user, self.clock = user, clock
        self.told: list[tuple[int, dt.datetime]] = []
        self.plan: int | None = None
        self.own: int | None = None
        self.has_died = False

    @property
    def limit(self) -> int | None:
        return min((days for days in (self.plan, self.own) if days is not None), default=None)

    def hear(self, body: str) -> None:
        days = int(re.findall(r"for (\d+) days after their last use", body)[0])
        assert days == self.limit
        assert self.has_died or days not in [said for said, _at in self.told], "It was told twice."
        self.told.append((days, self.clock.now))

    def sweep(self, dies_at: int | None) -> None:
        """Sweep once, perhaps dying at some step; whatever went was to go."""
        there = {one.pk: one for one in Conversation.objects.filter(trashed_at=None)}
        self.has_died |= dies_at is not None
        heard = len(mail.outbox)
        with dying_at(dies_at) as is_dead:
            try:
                retention.look_at_due()
            except Died:
                is_dead.append(True)
        for letter in mail.outbox[heard:]:
            self.hear(str(letter.body))
        if not is_dead:
            self.has_died &= dies_at is not None
            limit = self.limit
            self.told = [] if limit is None else [(max(days, limit), at) for days, at in self.told]
        for one in Conversation.objects.filter(pk__in=there, trashed_at__isnull=False):
            unused = self.clock.now - max(there[one.pk].updated_at, one.kept_since or one.created_at - 999 * DAY)
            assert not one.is_pinned
            assert self.limit is not None
            assert unused > self.limit * DAY
            assert any(unused > days * DAY and at <= self.clock.now - 30 * DAY for days, at in self.told)

    def due(self) -> list[Conversation]:
        if self.limit is None:
            return []
        return trash.list_unused(self.user.pk, self.clock.now - self.limit * DAY, limit=100)


@contextmanager
def dying_at(step: int | None) -> Iterator[list[bool]]:
    """Die at so many statements, mails and announcements from here; yield what is told whether that happened."""
    steps = iter(range(1_000))

    def count() -> None:
        if next(steps) == step:
            raise Died

    def execute(call: Any, *arguments: Any) -> Any:
        count()
        return call(*arguments)

    send, announce = retention.send_mail, trash._announce_trashed

    def send_and_count(**letter: Any) -> None:
        count()
        send(**letter)
        count()

    def announce_and_count(*arguments: Any) -> None:
        count()
        announce(*arguments)

    with pytest.MonkeyPatch.context() as patch, connection.execute_wrapper(execute):
        patch.setattr(retention, "send_mail", send_and_count)
        patch.setattr(trash, "_announce_trashed", announce_and_count)
        yield []


@pytest.mark.parametrize("seed", range(6))
def test_whatever_changes_and_dies_nothing_goes_early_or_untold_and_all_of_it_in_the_end(
    english: User, clock: Clock, seed: int
):
    chance, world = random.Random(seed), World(english, clock)
    conversations = [old(english, chance.choice([5, 40, 100, 400]), str(number)) for number in range(6)]

    def use() -> None:
        rows.update(Conversation, {"pk": chance.choice(conversations).pk}, {"updated_at": clock.now})

    def pin() -> None:
        order.do(english.pk, chance.choice(["pin", "unpin"]), {chance.choice(conversations).pk: None})

    def take_back() -> None:
        trash.restore_conversations(english.pk, [chance.choice(conversations).pk])

    def change_plan() -> None:
        world.plan = chance.choice([None, 60, 90, 180])
        limit_plan(world.plan)

    def change_wish() -> None:
        world.own = chance.choice([None, 30, 90, 365])
        want(english, world.own)

    for _step in range(40):
        chance.choice([use, pin, take_back, change_plan, change_wish, *[lambda: None] * 6])()
        clock.pass_days(chance.choice([1.01, 3, 10, 20]))
        world.sweep(chance.choice([None, None, chance.randrange(12)]))
    change_plan()
    for _day in range(34):
        clock.pass_days(1.01)
        world.sweep(None)
    assert not world.due()
