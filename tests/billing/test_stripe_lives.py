"""What people do and what Stripe tells, from the checkout to what they may use."""

import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.core.management import call_command
from django.test import Client
from djstripe import models as rows

from accounts.models import User
from billing import purchasing, reconciliation
from billing.entitlements import entitlements_of
from billing.models import GatewayEvent, Payment, Price, Subscription
from billing.seeds import load_prices
from tests.billing.stripe_site import SETTINGS, Shop, simulated

RETURN = "https://chat.example.com/billing/"


@pytest.fixture
def told(shop: Shop, live_server: Any) -> Iterator[Callable[[], None]]:
    """Return how to wait until Stripe has told everything, and a worker has handled it."""
    load_prices("stripe", "USD")
    call_command("set_up_stripe", verbosity=0)
    simulated.notice_url = f"{live_server.url}/stripe/webhook/{SETTINGS['STRIPE_WEBHOOK_UUID']}/"

    def wait() -> None:
        deadline = time.monotonic() + 30
        while simulated.state["notices"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        reconciliation.work_off()

    yield wait
    simulated.notice_url = ""


def premium(interval: str = "month", plan: str = "premium") -> int:
    return Price.objects.get(gateway="stripe", plan__key=plan, interval=interval).pk


def plan_of(user: User) -> str:
    return entitlements_of(user.pk).plan


def pay(shop: Shop, purchase: Any) -> None:
    shop.control("pay", session=urlsplit(purchase.url).path.rpartition("/")[2])


@pytest.mark.stores
def test_a_purchase_gives_the_plan_when_stripe_tells_of_it(shop: Shop, told: Callable[[], None], ana: User) -> None:
    purchase = purchasing.start_checkout(ana, premium(), "subscription", return_url=RETURN)
    told()
    assert plan_of(ana) == "free"
    pay(shop, purchase)
    told()
    assert plan_of(ana) == "premium"
    assert Payment.objects.get().amount_minor == 2_000
    assert not GatewayEvent.objects.filter(done_at=None).exists()


def test_the_return_page_gives_it_when_every_notification_is_lost(
    shop: Shop, told: Callable[[], None], ana: User
) -> None:
    shop.control("notices", mode="lose")
    purchase = purchasing.start_checkout(ana, premium(), "subscription", return_url=RETURN)
    pay(shop, purchase)
    assert plan_of(ana) == "free"
    purchasing.return_from_checkout(ana, purchase.key)
    assert plan_of(ana) == "premium"


def test_reconciliation_gives_it_when_the_buyer_never_comes_back(
    shop: Shop, told: Callable[[], None], ana: User
) -> None:
    shop.control("notices", mode="lose")
    pay(shop, purchasing.start_checkout(ana, premium(), "subscription", return_url=RETURN))
    reconciliation.reconcile()
    reconciliation.work_off()
    assert plan_of(ana) == "premium"


@pytest.mark.stores
def test_an_upgrade_a_cancellation_and_its_taking_back(shop: Shop, told: Callable[[], None], ana: User) -> None:
    pay(shop, purchasing.start_checkout(ana, premium(), "subscription", return_url=RETURN))
    told()
    planned = purchasing.preview_change(ana, premium(plan="enterprise"))
    purchasing.change(ana, premium(plan="enterprise"), planned.preview)
    assert plan_of(ana) == "enterprise"
    assert purchasing.cancel(ana)
    subscription = Subscription.objects.get()
    assert subscription.cancels_at == subscription.paid_until
    assert plan_of(ana) == "enterprise"
    assert purchasing.resume(ana)
    subscription.refresh_from_db()
    assert subscription.cancels_at is None


def test_an_upgrade_that_the_bank_must_confirm_gives_nothing_before(
    shop: Shop, told: Callable[[], None], ana: User
) -> None:
    pay(shop, purchasing.start_checkout(ana, premium(), "subscription", return_url=RETURN))
    told()
    shop.control("card", customer=shop.objects("customer")[0]["id"], outcome="confirm")
    planned = purchasing.preview_change(ana, premium(plan="enterprise"))
    purchasing.change(ana, premium(plan="enterprise"), planned.preview)
    assert plan_of(ana) == "premium"
    waiting = Payment.objects.get(action="confirm")
    shop.control("invoice", id=waiting.reference, do="pay")
    told()
    assert plan_of(ana) == "enterprise"


@pytest.mark.stores
def test_whoever_goes_away_is_forgotten_at_stripe(shop: Shop, told: Callable[[], None], ana: User) -> None:
    pay(shop, purchasing.start_checkout(ana, premium(), "subscription", return_url=RETURN))
    told()
    ana.delete()
    told()
    assert [found["status"] for found in shop.objects("subscription")] == ["canceled"]
    assert shop.objects("customer") == []
    assert not rows.Customer.objects.exists()
    assert not rows.Invoice.objects.exists()
    assert Payment.objects.count() == 1


def test_what_is_forged_moves_nothing(shop: Shop, told: Callable[[], None], ana: User) -> None:
    event = {"id": "evt_1", "type": "invoice.paid", "livemode": False, "data": {"object": {"object": "invoice"}}}
    address = f"/stripe/webhook/{SETTINGS['STRIPE_WEBHOOK_UUID']}/"
    answer = Client(headers={"stripe-signature": "t=1,v1=00"}).post(address, event, content_type="application/json")
    told()
    assert (answer.status_code, plan_of(ana)) == (400, "free")


# --- The admin -----------------------------------------------------------------------------------------------------


def test_the_admin_shows_what_stripe_sent(shop: Shop, olga: User) -> None:
    shop.renew(shop.buy(), "decline")
    browser = Client()
    browser.force_login(olga)
    for model in (rows.Customer, rows.Subscription, rows.Invoice, rows.Charge):
        place = f"/admin/djstripe/{model._meta.model_name}/"
        assert browser.get(place).status_code == 200
        page = browser.get(f"{place}{model.objects.latest('created').pk}/change/")
        assert page.status_code == 200
        assert "stripe_data" not in page.content.decode()
    listed = browser.get("/admin/djstripe/invoice/").content.decode()
    assert "2,000.00" not in listed
    assert "20.00" in listed
    assert browser.get("/admin/djstripe/invoice/add/").status_code == 403


def test_without_a_key_the_admin_knows_nothing_of_stripe(shop: Shop, olga: User, settings: Any) -> None:
    browser = Client()
    browser.force_login(olga)
    assert "djstripe" in browser.get("/admin/").content.decode()
    settings.STRIPE_SECRET_KEY = ""
    assert "djstripe" not in browser.get("/admin/").content.decode()
    assert browser.get("/admin/djstripe/invoice/").status_code == 403
