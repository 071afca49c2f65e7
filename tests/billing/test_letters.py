"""Mails about money: each fact is told once, in the person's language, and only while it is true."""

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from django.core.mail import EmailMessage
from django.utils import timezone

from accounts.models import User
from billing import letters, metering
from billing.metering import Usage
from billing.models import BillingAccount, Letter, Plan, UsageRecord
from billing.purchasing import cancel
from billing.subscriptions import apply
from tests.billing.fake_gateway import bought, change, change_payment, payment, renew, state

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

START = dt.datetime(2027, 1, 15, 9, 30, tzinfo=dt.UTC)
FEBRUARY = dt.datetime(2027, 2, 15, 9, 30, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[EmailMessage]:
    """The mails, in the order in which a worker sent them."""
    outbox: list[EmailMessage] = []
    monkeypatch.setattr(letters.send_mail, "delay", lambda **fields: outbox.append(EmailMessage(**fields)))
    return outbox


@pytest.fixture
def premium(ana: User, prices: Any, at: Callable[[dt.datetime], None]) -> User:
    """Ana, who bought Premium and has her receipt, and reads English."""
    ana.locale = "en"
    ana.save()
    at(START)
    apply(bought(ana, prices["premium-month"], at=START))
    return ana


def send() -> None:
    letters.note_due()
    letters.send_due()
    letters.send_due()


def subjects(sent: list[EmailMessage]) -> list[str]:
    return [message.subject.replace("\xa0", " ") for message in sent]


def test_a_payment_is_answered_with_one_receipt(premium: User, sent: list[EmailMessage]):
    apply(change("s1"))
    send()
    apply(change("s1"))
    send()
    (receipt,) = sent
    assert (receipt.subject.replace("\xa0", " "), receipt.to) == ("Receipt: 20.00 USD", ["ana@example.com"])
    assert "January 15, 2027 to February 15, 2027" in receipt.body
    assert "This is a receipt, not a fiscal invoice." in receipt.body
    assert "http://localhost:8000/billing/" in receipt.body


@pytest.mark.parametrize(("locale", "said"), [("es", "Recibo: 20,00 USD"), ("pt-br", "Recibo: 20,00 USD")])
def test_mails_are_in_the_person_s_language(
    ana: User, prices: Any, at: Any, sent: list[EmailMessage], locale: str, said: str
):
    ana.locale = locale
    ana.save()
    at(START)
    apply(bought(ana, prices["premium-month"], at=START))
    send()
    assert subjects(sent) == [said]
    assert ("no una factura fiscal" if locale == "es" else "não uma nota fiscal") in sent[0].body


def test_what_was_paid_long_before_we_heard_of_it_is_history(ana: User, prices: Any, sent: list[Any]):
    apply(bought(ana, prices["premium-month"], at=timezone.now() - 60 * DAY, status="ended"))
    send()
    assert sent == []


def test_a_failed_renewal_says_what_to_do_once_and_reminds_twice(premium: User, at: Any, sent: list[EmailMessage]):
    send()
    at(FEBRUARY + dt.timedelta(hours=1))
    name = renew("s1", status="failed")
    apply(change_payment(name, action="pay", action_url="https://pay.test/open"))
    send()
    failed = sent[-1]
    assert subjects(sent)[1:] == ["A payment did not go through: 20.00 USD"]
    assert "You keep your plan until February 22, 2027." in failed.body
    assert "https://pay.test/open" in failed.body
    for days in (1, 4, 4.5, 6.5):
        at(FEBRUARY + days * DAY)
        apply(change("s1"))
        send()
    assert subjects(sent)[2:] == ["Your plan ends on February 22, 2027 if it is not paid"] * 2


def test_a_reminder_is_not_sent_once_it_is_paid(premium: User, at: Any, sent: list[EmailMessage]):
    at(FEBRUARY + 5 * DAY)
    name = renew("s1", status="failed")
    apply(change("s1"))
    letters.note_due()
    apply(change_payment(name, status="paid", paid_at=FEBRUARY + 5 * DAY))
    letters.send_due()
    assert not [subject for subject in subjects(sent) if "Receipt" not in subject]
    assert not Letter.objects.filter(done_at=None).exists()


def test_a_payment_that_the_bank_wants_confirmed_has_the_link(
    ana: User, prices: Any, at: Any, sent: list[EmailMessage]
):
    at(START)
    waiting = payment(
        *(prices["premium-month"], "s1-p1", START, FEBRUARY),
        status="pending",
        paid_at=None,
        action="confirm",
        action_url="https://pay.test/3ds",
    )
    apply(bought(ana, prices["premium-month"], at=START, status="pending", payments=(waiting,)))
    send()
    (asked,) = sent
    assert "https://pay.test/3ds" in asked.body
    assert "Nada se paga ni empieza" in asked.body


def test_a_voucher_comes_with_its_code_and_its_last_day(ana: User, prices: Any, at: Any, sent: list[EmailMessage]):
    at(START)
    waiting = payment(
        *(prices["premium-month"], "s1-p1", START, FEBRUARY),
        status="pending",
        paid_at=None,
        action="voucher",
        action_code="00020126-pix",
        expires_at=START + 3 * DAY,
    )
    apply(bought(ana, prices["premium-month"], at=START, status="pending", payments=(waiting,), kind="prepaid"))
    send()
    (voucher,) = sent
    assert "00020126-pix" in voucher.body
    assert "18 de enero de 2027" in voucher.body


def test_a_trial_s_end_is_announced_three_days_before(ana: User, prices: Any, at: Any, sent: list[EmailMessage]):
    at(START)
    Plan.objects.filter(key="premium").update(trial_days=14, trial_credits=1_000)
    account = BillingAccount.objects.create(user=ana)
    account.purchases.create(key="k", price=prices["premium-month"], kind="subscription", trial_days=14)
    apply(bought(ana, prices["premium-month"], at=START, status="trialing", trial_end=START + 14 * DAY, payments=()))
    send()
    assert sent == []
    at(START + 12 * DAY)
    send()
    send()
    assert subjects(sent) == ["Tu prueba termina el 29 de enero de 2027"]
    assert "20,00" in sent[0].body


def test_a_cancellation_says_until_when_the_plan_is_kept(premium: User, sent: list[EmailMessage]):
    cancel(premium)
    apply(change("s1", status="ended"))
    send()
    assert subjects(sent)[1:] == ["Your subscription is cancelled"]
    assert "You keep Premium until February 15, 2027" in sent[-1].body


def test_each_refund_is_told(premium: User, sent: list[EmailMessage]):
    apply(change_payment("s1-p1", refunded_minor=500))
    send()
    apply(change_payment("s1-p1", refunded_minor=2_000))
    send()
    apply(change("s1"))
    send()
    told = [subject for subject in subjects(sent) if subject.startswith("Refunded")]
    assert told == ["Refunded: 5.00 USD", "Refunded: 20.00 USD"]
    assert "The time it paid for has ended." in sent[-1].body


def test_a_month_that_was_paid_for_is_summed_up_once(premium: User, at: Any, sent: list[EmailMessage]):
    key = uuid4()
    metering.reserve(premium.pk, key, amount_micros=2_500)
    metering.settle(key, cost_micros=2_500, usage=Usage(1, 1), label="a-model")
    UsageRecord.objects.update(recorded_at=START)  # the clock of the test is not the database's
    send()
    sent.clear()
    for day in (1, 2, 8):
        at(dt.datetime(2027, 2, day, 4, 17, tzinfo=dt.UTC))
        letters.note_statements()
        letters.send_due()
    assert subjects(sent) == ["Your month: January 2027"]
    assert "- a-model: 2.500" in sent[0].body
    assert "20.00" in sent[0].body


def test_who_uses_the_free_plan_alone_gets_no_statement(ana: User, gateway: Any, at: Any, sent: list[Any]):
    metering.reserve(ana.pk, uuid4(), amount_micros=1)
    at(dt.datetime(2027, 2, 1, 4, 17, tzinfo=dt.UTC))
    letters.note_statements()
    letters.send_due()
    assert sent == []


def test_nobody_writes_to_who_went_away(premium: User, sent: list[EmailMessage]):
    premium.delete()
    send()
    assert sent == []
    assert not Letter.objects.filter(done_at=None).exists()


def test_a_mail_that_breaks_is_tried_again(premium: User, monkeypatch: Any, at: Any, sent: list[EmailMessage]):
    def broken(**_fields: Any) -> None:
        raise ConnectionError

    with monkeypatch.context() as patched:
        patched.setattr(letters.send_mail, "delay", broken)
        letters.send_due()
    assert sent == []
    at(START + dt.timedelta(minutes=2))
    letters.send_due()
    assert subjects(sent) == ["Receipt: 20.00 USD"]


def test_attempts_at_one_renewal_are_one_matter(premium: User, at: Any, sent: list[EmailMessage]):
    send()
    at(FEBRUARY + dt.timedelta(hours=1))
    renew("s1", status="failed")
    apply(change("s1"))
    send()
    snapshot = state.snapshots["s1"]
    again = replace(snapshot.payments[-1], reference="s1-p9")
    apply(change("s1", payments=(*snapshot.payments, again)))
    send()
    assert len(sent) == 2
