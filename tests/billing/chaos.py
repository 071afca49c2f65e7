"""A small world in which somebody buys, banks pay, gateways tell, and workers die: the program and the simulated
gateways as they are, over HTTP, and what people and banks did as a `History` for the oracle.

Everybody has the same clock, which stands still until it is moved; the site's may be some seconds off. A death is an
exception that nobody catches, at some statement or request of whatever is being done.
"""

import datetime as dt
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import uuid4

import pytest
import requests
from allauth.account.models import EmailAddress
from django.apps import apps
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone

from accounts.models import User
from billing import metering, purchasing, reconciliation, staff
from billing.entitlements import access_of, account_of, budget_of, packs_of
from billing.errors import AllowanceUsedUp
from billing.gateways import get_gateway
from billing.gateways.base import Kind, Order
from billing.metering import Usage
from billing.models import (
    GatewayEvent,
    GatewayTask,
    Payment,
    Plan,
    Price,
    Purchase,
    Reservation,
    Subscription,
    UsagePeriod,
)
from billing.periods import find_or_grant
from config.embedded.simulated_gateway import Reply, Request, SimulatedGateway
from core.errors import DomainError
from tests.billing import oracle
from tests.billing.oracle import Charge, Contract, Grant, History, Pack

RETURN = "https://chat.example.com/billing/"
ADDRESSES = {"stripe": "/stripe/webhook/{uuid}/", "mercadopago": "/webhooks/mercadopago/"}
REFUSALS = {"stripe": 400, "mercadopago": 401}
API_PATHS = {
    "stripe": ["/v1/"],
    "mercadopago": ["/preapproval", "/v1/payments", "/authorized_payments", "/checkout/preferences"],
}
CURRENCIES = {"stripe": "usd", "mercadopago": "ars"}
PAID = ("approved", "refunded", "charged_back")
AWAY = dt.timedelta(days=2)
"""Workers are never away for longer: reconciliation looks back for three days."""


class Killed(BaseException):
    """The process is gone."""


class Clock:
    """What time it is. Each look is a microsecond later than the one before, as no two are at the same instant."""

    def __init__(self) -> None:
        self.at, self.ahead, self._looks = dt.datetime(2027, 1, 1, tzinfo=dt.UTC), dt.timedelta(), 0

    def now(self) -> dt.datetime:
        self._looks += 1
        return self.at + self.ahead + dt.timedelta(microseconds=self._looks)


@contextmanager
def standing_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Let the program have a clock of the test, for the defaults of fields, too, which kept the real one."""
    clock, real_now = Clock(), timezone.now
    monkeypatch.setattr(timezone, "now", clock.now)
    for model in apps.get_models():
        for field in model._meta.concrete_fields:
            if field.default is real_now:
                monkeypatch.setitem(field.__dict__, "_get_default", clock.now)
    yield clock


class Deaths:
    """Kills whatever is being done at a point of it: before or after a statement or a request."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left: int | None = None
        self.count = 0
        send = requests.Session.send

        def counted(session: requests.Session, request: Any, **options: Any) -> Any:
            self._pass()
            answer = send(session, request, **options)
            self._pass()
            return answer

        monkeypatch.setattr(requests.Session, "send", counted)

    def _pass(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self._left = None
                raise Killed

    def _statement(self, execute: Callable[..., Any], sql: str, *given: Any) -> Any:
        self._pass()
        answer = execute(sql, *given)
        if not sql.startswith("BEGIN"):  # after which Django would not know that it is to be rolled back
            self._pass()
        return answer

    def die(self) -> NoReturn:
        raise Killed

    @contextmanager
    def after(self, points: int | None) -> Iterator[None]:
        """Whoever does something here dies after so many points, unless it is done by then. None: nobody dies."""
        self._left = points
        try:
            with connection.execute_wrapper(self._statement):
                yield
        except Killed:
            self.count += 1
        finally:
            self._left = None


class Site:
    """One gateway from outside: what payers, banks and its own people do there, and its books."""

    def __init__(self, name: str, server: SimulatedGateway) -> None:
        self.name, self.server = name, server

    def post(self, path: str, what: dict[str, Any], query: dict[str, str] | None = None) -> Reply:
        is_control = path.startswith("/_control/")
        body = json.dumps(what).encode() if is_control else urlencode(what).encode()
        answer = self.server.answer(Request("POST", path, query or {}, {}, body))
        assert answer is not None
        return answer

    def objects(self, kind: str) -> list[dict[str, Any]]:
        raise NotImplementedError

    def fail(self, kind: str, times: int, path: int) -> None:
        paths = API_PATHS[self.name]
        self.post("/_control/faults", {"kind": kind, "times": times, "path": paths[path % len(paths)]})

    def pay(self, url: str, how: str) -> None:
        """Somebody pays on the checkout page, if it is still to be paid: "ok", "later" with a voucher, or with a card
        that is "stopped" by their bank until they confirm, or for good."""
        raise NotImplementedError

    def vouchers(self, account_id: int) -> list[str]:
        """Return what is still to be paid in cash."""
        raise NotImplementedError

    def pay_voucher(self, name: str) -> None: ...

    def set_card(self, account_id: int, outcome: str) -> None: ...
    def pay_what_is_due(self, account_id: int) -> None: ...
    def refund(self, payment: str, share: int) -> None: ...
    def dispute(self, payment: str, result: str) -> None: ...
    def contracts(self, account_id: int, wishes: dict[str, str], refunds: set[str]) -> list[Contract]: ...
    def packs(self, account_id: int, refunds: set[str]) -> list[Pack]: ...


class StripeSite(Site):
    def objects(self, kind: str) -> list[dict[str, Any]]:
        return list(self.server.state["objects"].get(kind, {}).values())

    def pay(self, url: str, how: str) -> None:
        outcome = {"ok": "ok", "later": "voucher", "stopped": "confirm"}[how]
        session = self.server.state["objects"]["checkout.session"][urlsplit(url).path.rpartition("/")[2]]
        if session["mode"] == "payment" and how == "stopped":
            return  # at a checkout the bank asks on its page: nothing is left of whoever does not confirm
        self.post("/_control/pay", {"session": session["id"], "how": outcome})
        self.post("/_control/card", {"customer": session["customer"], "outcome": "ok"})  # what comes next is charged

    def _sessions(self, account_id: int) -> list[dict[str, Any]]:
        return [one for one in self.objects("checkout.session") if one["client_reference_id"] == str(account_id)]

    def vouchers(self, account_id: int) -> list[str]:
        invoices = self.server.state["objects"].get("invoice", {})
        intents = [one["payment_intent"] for one in self._sessions(account_id)]
        for session in self._sessions(account_id):
            if session["invoice"] and invoices[session["invoice"]]["status"] == "open":
                paid = [one for one in self.objects("invoice_payment") if one["invoice"] == session["invoice"]]
                intents += [one["payment"]["payment_intent"] for one in paid]
        found = self.server.state["objects"].get("payment_intent", {})
        actions = {one: found[one]["next_action"] for one in intents if one}
        return [one for one, action in actions.items() if action and action["type"].startswith("boleto")]

    def pay_voucher(self, name: str) -> None:
        self.post("/_control/voucher", {"intent": name})

    def _subscriptions(self, account_id: int) -> list[dict[str, Any]]:
        found = self.objects("subscription")
        return [one for one in found if one["metadata"].get("djstripe_subscriber") == str(account_id)]

    def set_card(self, account_id: int, outcome: str) -> None:
        for customer in {found["customer"] for found in self._subscriptions(account_id)}:
            self.post("/_control/card", {"customer": customer, "outcome": outcome})

    def pay_what_is_due(self, account_id: int) -> None:
        mine = {found["id"] for found in self._subscriptions(account_id) if found["status"] != "canceled"}
        for invoice in self.objects("invoice"):
            if invoice["status"] == "open" and self._contract_of(invoice) in mine:
                self.post("/_control/invoice", {"id": invoice["id"], "do": "pay"})

    def _contract_of(self, invoice: dict[str, Any]) -> str:
        return str(invoice["parent"]["subscription_details"]["subscription"])

    def _charge_of(self, name: str) -> dict[str, Any] | None:
        """Return the charge of an invoice or a payment."""
        paid = [one for one in self.objects("invoice_payment") if one["invoice"] == name]
        intents = {name, *(one["payment"]["payment_intent"] for one in paid)}
        charges = [one for one in self.objects("charge") if one["payment_intent"] in intents and one["paid"]]
        return charges[0] if charges else None

    def _has_credit_back(self, invoice: dict[str, Any]) -> bool:
        credits = self.objects("customer_balance_transaction")
        back = [one["amount"] for one in credits if one["metadata"].get("invoice") == invoice["id"]]
        return sum(back) == invoice["starting_balance"] - invoice["ending_balance"]

    def refund(self, payment: str, share: int) -> None:
        charge = self._charge_of(payment)
        if charge is not None and not charge["disputed"] and charge["amount_refunded"] < charge["amount"]:
            left = charge["amount"] - charge["amount_refunded"]
            self.post("/_control/refund", {"charge": charge["id"], "amount": max(1, left * share // 100)})

    def dispute(self, payment: str, result: str) -> None:
        charge = self._charge_of(payment)
        if charge is None or (charge["refunded"] and not charge["disputed"]):
            return
        known = [one for one in self.objects("dispute") if one["charge"] == charge["id"]]
        if not known:
            self.post("/_control/dispute", {"charge": charge["id"]})
        elif result != "open" and known[0]["status"] == "needs_response":
            self.post("/_control/dispute", {"dispute": known[0]["id"], "status": result})

    def packs(self, account_id: int, refunds: set[str]) -> list[Pack]:
        sold = [one for one in self._sessions(account_id) if one["mode"] == "payment" and one["payment_intent"]]
        charges = [(one, charge) for one in sold if (charge := self._charge_of(one["payment_intent"]))]
        return [
            Pack(
                name=one["payment_intent"],
                at=moment(charge["created"]),
                micros=micros_of(one["metadata"]["price"]),
                refunded_by=who_refunded(one["payment_intent"], refunds) if charge["refunded"] else "",
                dispute=self._dispute_of(charge),
            )
            for one, charge in charges
        ]

    def contracts(self, account_id: int, wishes: dict[str, str], refunds: set[str]) -> list[Contract]:
        return [self._contract(found, wishes, refunds) for found in self._subscriptions(account_id)]

    def _dispute_of(self, charge: dict[str, Any]) -> str:
        if not charge["disputed"]:
            return ""
        status = next(one["status"] for one in self.objects("dispute") if one["charge"] == charge["id"])
        return status if status in ("won", "lost") else "open"

    def _contract(self, found: dict[str, Any], wishes: dict[str, str], refunds: set[str]) -> Contract:
        invoices = [one for one in self.objects("invoice") if self._contract_of(one) == found["id"]]
        is_alive = found["status"] in ("active", "trialing", "past_due") and found["cancel_at"] is None
        is_trial = found["trial_end"] is not None and "deferred" not in found["metadata"]
        return Contract(
            name=found["id"],
            plan=found["items"]["data"][0]["price"]["lookup_key"].partition("-")[0],
            renews=is_alive and not found["cancel_at_period_end"],
            charges=tuple(charge for one in invoices if (charge := self._charge(one, refunds))),
            is_cancelled=wishes.get(found["id"]) == "cancel",
            was_declined=wishes.get(found["id"]) == "either" or any(one["attempt_count"] > 1 for one in invoices),
            trial_until=moment(found["trial_end"]) if is_trial else None,
            tried="premium",
            is_alive=found["status"] not in ("canceled", "incomplete_expired"),
        )

    def _charge(self, invoice: dict[str, Any], refunds: set[str]) -> Charge | None:
        if invoice["status"] != "paid" or (not invoice["total"] and invoice["billing_reason"] == "subscription_create"):
            return None
        lines = invoice["lines"]["data"]
        regular = [line for line in lines if not line["parent"]["subscription_item_details"]["proration"]]
        bought = max(regular or lines, key=lambda line: line["amount"])
        price = self.server.state["objects"]["price"][bought["pricing"]["price_details"]["price"]]
        given = self._charge_of(invoice["id"])
        is_back = given is not None and given["refunded"]
        if invoice["ending_balance"] > invoice["starting_balance"] and invoice["id"] not in refunds:
            # A credit paid, too; an operator gives back what was charged.
            is_back = (is_back or given is None) and self._has_credit_back(invoice)
        return Charge(
            name=invoice["id"],
            at=moment(invoice["status_transitions"]["paid_at"]),
            due=moment(bought["period"]["start"]),
            plan=price["lookup_key"].partition("-")[0],
            months=12 if price["recurring"]["interval"] == "year" else 1,
            is_upgrade=not regular,
            is_credited=bool(regular) and invoice["amount_due"] == 0,
            refunded_by=who_refunded(invoice["id"], refunds) if is_back else "",
            dispute=self._dispute_of(given) if given is not None else "",
        )


class MercadoPagoSite(Site):
    def objects(self, kind: str) -> list[dict[str, Any]]:
        return list(self.server.state[kind].values())

    def pay(self, url: str, how: str) -> None:
        """Cash pays nothing that renews."""
        parts = urlsplit(url)
        words = {"ok": "approved", "later": "rapipago", "stopped": "rejected"}
        if parts.path == "/subscriptions/checkout":
            words = {"ok": "pay", "later": "pay", "stopped": "bad"}
        self.post(parts.path, {"do": words[how]}, dict(parse_qsl(parts.query)))

    def _bought_once(self, account_id: int, letter: str) -> list[dict[str, Any]]:
        """Return the payments of what is bought once: prepaid (p), or a pack (k)."""
        found = [one for one in self.objects("payments") if one["external_reference"].startswith(f"ttl_{letter}")]
        return [one for one in found if one["external_reference"].split("_")[2] == str(account_id)]

    def vouchers(self, account_id: int) -> list[str]:
        found = self._bought_once(account_id, "p") + self._bought_once(account_id, "k")
        return [str(one["id"]) for one in found if one["status"] == "pending"]

    def pay_voucher(self, name: str) -> None:
        self.post("/_control/settle", {"id": name, "status": "approved"})

    def _subscriptions(self, account_id: int) -> list[dict[str, Any]]:
        found = self.objects("preapprovals")
        return [one for one in found if one["external_reference"].split("_")[2] == str(account_id)]

    def set_card(self, account_id: int, outcome: str) -> None:
        for found in self._subscriptions(account_id):
            self.post("/_control/card", {"id": found["id"], "card": "good" if outcome == "ok" else "bad"})

    def pay_what_is_due(self, account_id: int) -> None:
        for found in self._subscriptions(account_id):
            instalments = [one for one in self.objects("instalments") if one["preapproval_id"] == found["id"]]
            if found["status"] == "authorized" and any(one["status"] == "recycling" for one in instalments):
                self.post("/_control/card", {"id": found["id"], "card": "good"})
                self.post("/_control/renew", {"id": found["id"]})

    def refund(self, payment: str, share: int) -> None:
        found = self.server.state["payments"][payment]
        left = found["transaction_amount"] - found["transaction_amount_refunded"]
        if found["status"] == "approved":
            body = json.dumps({"amount": max(0.01, round(left * share / 100, 2))}).encode()
            headers = {"authorization": "Bearer TEST-token"}
            self.server.answer(Request("POST", f"/v1/payments/{payment}/refunds", {}, headers, body))

    def dispute(self, payment: str, result: str) -> None:
        found = self.server.state["payments"][payment]
        is_known = found["status"] == "charged_back"
        if (not is_known and found["status"] == "approved") or found["status_detail"] == "in_process":
            self.post("/_control/dispute", {"id": payment, "result": result if is_known else "open"})

    def contracts(self, account_id: int, wishes: dict[str, str], refunds: set[str]) -> list[Contract]:
        renewing = [self._contract(found, wishes, refunds) for found in self._subscriptions(account_id)]
        return renewing + [self._prepaid(paid, refunds) for paid in self._bought_once(account_id, "p")]

    def packs(self, account_id: int, refunds: set[str]) -> list[Pack]:
        paid = [one for one in self._bought_once(account_id, "k") if one["status"] in PAID]
        return [
            Pack(
                name=str(one["id"]),
                at=dt.datetime.fromisoformat(one["date_approved"]).astimezone(dt.UTC),
                micros=micros_of(one["external_reference"]),
                refunded_by=who_refunded(str(one["id"]), refunds) if one["status"] == "refunded" else "",
                dispute=self._dispute_of(one),
            )
            for one in paid
        ]

    def _dispute_of(self, paid: dict[str, Any]) -> str:
        details = {"reimbursed": "won", "settled": "lost", "in_process": "open"}
        return details[paid["status_detail"]] if paid["status"] == "charged_back" else ""

    def _prepaid(self, paid: dict[str, Any], refunds: set[str]) -> Contract:
        """One payment, for what begins when it was made or, if that is later, when it was agreed."""
        charges = ()
        if paid["status"] in PAID:
            charge = self._charge_for(paid, paid["date_approved"], refunds)
            begins = moment(int(paid["external_reference"].split("_")[3]))
            charges = (replace(charge, due=max(charge.at, begins)),)
        return Contract(str(paid["id"]), plan_of(paid["external_reference"]), renews=False, charges=charges)

    def _contract(self, found: dict[str, Any], wishes: dict[str, str], refunds: set[str]) -> Contract:
        instalments = [one for one in self.objects("instalments") if one["preapproval_id"] == found["id"]]
        charges = [charge for one in instalments if (charge := self._charge(one, refunds))]
        is_trial = found["external_reference"].startswith("ttl_t")
        return Contract(
            name=found["id"],
            plan=plan_of(found["external_reference"]),
            renews=found["status"] == "authorized" and (is_trial or bool(charges)),
            charges=tuple(charges),
            counts_from_payment=not is_trial,
            is_cancelled=wishes.get(found["id"]) == "cancel",
            was_declined=wishes.get(found["id"]) == "either" or any(one["retry_attempt"] > 1 for one in instalments),
            trial_until=moment(int(found["external_reference"].split("_")[3])) if is_trial else None,
            tried=found["reason"].lower(),
            is_alive=found["status"] == "authorized",
        )

    def _charge(self, instalment: dict[str, Any], refunds: set[str]) -> Charge | None:
        if not instalment["payment"]:
            return None
        paid = self.server.state["payments"][str(instalment["payment"]["id"])]
        return self._charge_for(paid, instalment["debit_date"], refunds) if paid["status"] in PAID else None

    def _charge_for(self, paid: dict[str, Any], due: str, refunds: set[str]) -> Charge:
        name = str(paid["id"])
        return Charge(
            name=name,
            at=dt.datetime.fromisoformat(paid["date_approved"]).astimezone(dt.UTC),
            due=dt.datetime.fromisoformat(due).astimezone(dt.UTC),
            plan=plan_of(paid["external_reference"]),
            months=12 if "-year-" in paid["external_reference"] else 1,
            refunded_by=who_refunded(name, refunds) if paid["status"] == "refunded" else "",
            dispute=self._dispute_of(paid),
        )


def plan_of(external_reference: str) -> str:
    return external_reference.rpartition("_")[2].partition("-")[0]


def micros_of(reference: str) -> int:
    """Return what is in a pack that is sold under a reference, such as `…pack-5000-usd`."""
    return int(reference.rpartition("pack-")[2].partition("-")[0]) * 1_000


def who_refunded(name: str, refunds: set[str]) -> str:
    return "operator" if name in refunds else "site"


def moment(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


class World:
    """Somebody, the site, and the gateways. `diary` is what happened, in words."""

    def __init__(self, sites: dict[str, Site], clock: Clock, deaths: Deaths, *, operator: User) -> None:
        self.sites, self.clock, self.deaths, self.operator = sites, clock, deaths, operator
        self.tabs: list[tuple[str, str]] = []
        self.wishes: dict[str, str] = {}
        self.operators_refunds: set[str] = set()
        self.used: dict[tuple[str, dt.datetime], int] = {}
        self.grants: list[Grant] = []
        self.diary: list[str] = []
        self._client = Client()
        forget_what_was_bought()
        self.user = User.objects.create_user(f"{uuid4()}@example.com")
        self.account_id = account_of(self.user.pk).pk

    # --- Time --------------------------------------------------------------------------------------------------------

    def begin(self, at: dt.datetime) -> None:
        self.clock.at, self.clock.ahead = at, dt.timedelta()
        self._move_gateways()

    def pass_time(self, time: dt.timedelta) -> None:
        """Let time go on; workers look at everything at least every two days."""
        while time > AWAY:
            self._pass(AWAY)
            time -= AWAY
            reconciliation.ask_about_expected()
            reconciliation.reconcile()
            reconciliation.work_off()
        self._pass(time)

    def _pass(self, time: dt.timedelta) -> None:
        self.clock.at += time
        self._move_gateways()

    def _move_gateways(self) -> None:
        for site in self.sites.values():
            site.post("/_control/clock", {"to": self.clock.at.timestamp(), "stopped": True})

    # --- Somebody ----------------------------------------------------------------------------------------------------

    def confirm_address(self) -> None:
        """Who has done that may try what can be tried."""
        EmailAddress.objects.create(user=self.user, email=self.user.email, verified=True, primary=True)

    def open_checkout(
        self, gateway: str, plan: str, interval: str, *, kind: Kind = "subscription", replaces: bool = False
    ) -> bool:
        return self._open(gateway, self.price(gateway, plan, interval), kind, replaces=replaces)

    def open_pack(self, gateway: str, pack_credits: int) -> bool:
        return self._open(gateway, Price.objects.get(gateway=gateway, pack_credits=pack_credits), "pack")

    def _open(self, gateway: str, price: Price, kind: Kind, *, replaces: bool = False) -> bool:
        try:
            found = purchasing.start_checkout(self.user, price.pk, kind, return_url=RETURN, replaces=replaces)
        except DomainError as error:
            self.note(f"checkout refused: {type(error).__name__}")
            return False
        self.tabs.append((gateway, found.url))
        return True

    def open_unguarded_checkout(self, gateway: str, plan: str, interval: str) -> None:
        """A second tab that the site's check did not see: both were opened in the same moment."""
        price = self.price(gateway, plan, interval)
        order = Order(
            key=uuid4().hex,
            account_id=self.account_id,
            email=self.user.email,
            kind="subscription",
            price_reference=price.reference,
            description=plan,
            amount_minor=price.amount_minor,
            currency=price.currency,
            interval=interval,  # type: ignore[arg-type]
            return_url=RETURN,
            locale="es",
        )
        try:
            checkout = get_gateway(gateway).start_checkout(order)
        except Exception as error:  # noqa: BLE001  a gateway that fails
            self.note(f"second tab refused: {type(error).__name__}")
            return
        self.tabs.append((gateway, checkout.url))

    def pay_tab(self, number: int, how: str = "ok") -> None:
        """Pay at a checkout that was opened. Nobody buys while a bank disputes what they bought before: of two, the one
        that is disputed cannot be refunded, and an operator is told."""
        if self._is_disputed():
            return
        gateway, url = self.tabs.pop(number)
        self.sites[gateway].pay(url, how)
        self._pass(dt.timedelta(seconds=10))

    def pay_vouchers(self) -> None:
        for site in self.sites.values():
            for voucher in site.vouchers(self.account_id):
                if not self._is_disputed():
                    site.pay_voucher(voucher)
                    self._pass(dt.timedelta(seconds=10))

    def _is_disputed(self) -> bool:
        return any(charge.dispute in ("open", "won") for _gateway, charge in self.charges())

    def come_back(self) -> None:
        for purchase in Purchase.objects.filter(account=self.account_id).exclude(reference_id=""):
            purchasing.return_from_checkout(self.user, purchase.key)

    def change(self, plan: str, interval: str) -> None:
        live = purchasing.find_live(account_of(self.user.pk))
        if live is None:
            return
        try:
            purchasing.change(self.user, self.price(live.gateway, plan, interval).pk)
        except DomainError as error:
            self.note(f"change refused: {type(error).__name__}")

    def cancel(self) -> None:
        self._wish("cancel", purchasing.cancel, "cancel")

    def resume(self) -> None:
        self._wish("resume", purchasing.resume, "either")

    def _wish(self, what: str, act: Callable[[User], bool], until_then: str) -> None:
        live = purchasing.find_live(account_of(self.user.pk))
        if live is None:
            return
        before = self.wishes.get(live.reference, "")
        self.wishes[live.reference] = "either"  # whoever dies now has said neither yes nor no
        try:
            is_done = act(self.user)
        except DomainError as error:
            self.wishes[live.reference] = before
            self.note(f"{what} refused: {type(error).__name__}")
            return
        self.note(f"{what} {'done' if is_done else 'noted'}")
        if what == "cancel":
            self.wishes[live.reference] = "cancel"
        elif is_done:
            self.wishes[live.reference] = ""

    def use(self, micros: int) -> None:
        key, budget = uuid4(), budget_of(self.user.pk)
        rows = [budget.period, *budget.packs]
        place = oracle.which_pays([one.left_micros or 0 for one in rows], micros)
        try:
            metering.reserve(self.user.pk, key, amount_micros=micros)
        except AllowanceUsedUp:
            assert place is None, (rows, micros)
            return
        metering.settle(key, cost_micros=micros, usage=Usage(1, 1), label="scripted")
        period = Reservation.objects.select_related("period").get(pk=key).period
        assert place is not None, (rows, micros)
        assert period.pk == rows[place].pk, (rows, micros)
        row = (str(period.kind), period.period_start)
        self.used[row] = self.used.get(row, 0) + micros

    # --- Banks and operators -----------------------------------------------------------------------------------------

    def set_card(self, outcome: str) -> None:
        for site in self.sites.values():
            site.set_card(self.account_id, outcome)

    def grant(self, plan: str, days: int | None) -> None:
        """Let an operator grant a plan, or take what was granted away."""
        now = self.clock.now()
        until = None if days is None else now + dt.timedelta(days=days)
        found = Plan.objects.filter(key=plan).first()
        staff.grant_plan(account_of(self.user.pk), found, by=self.operator, reason="a friend", until=until)
        self.grants = [replace(one, replaced=min(one.replaced or now, now)) for one in self.grants]
        if found is not None:
            self.grants.append(Grant(plan, now, until))

    def pay_what_is_due(self) -> None:
        if self._is_disputed() and len(self.history().contracts) > 1:
            return
        for site in self.sites.values():
            site.pay_what_is_due(self.account_id)

    def charges(self) -> list[tuple[str, Charge]]:
        found = [(name, charge) for name in self.sites for one in self._contracts(name) for charge in one.charges]
        return sorted(found, key=lambda pair: (pair[1].at, pair[1].name))

    def packs(self) -> list[tuple[str, Pack]]:
        return [(name, one) for name in self.sites for one in self._packs(name)]

    def _packs(self, name: str) -> list[Pack]:
        return self.sites[name].packs(self.account_id, self.operators_refunds)

    def refund(self, number: int, share: int, *, at_the_gateway: bool) -> None:
        paid = [*self.charges(), *self.packs()]
        refundable = [(name, one) for name, one in paid if not one.refunded_by and not one.dispute]
        if not refundable:
            return
        gateway, charge = refundable[number % len(refundable)]
        if share == 100:
            self.operators_refunds.add(charge.name)
        if at_the_gateway:
            self.sites[gateway].refund(charge.name, share)
            return
        payment = Payment.objects.filter(gateway=gateway, reference=charge.name).first()
        if payment is not None and payment.amount_minor:
            amount = None if share == 100 else payment.amount_minor * share // 100
            try:
                staff.refund(payment, by=self.operator, reason="asked", amount_minor=amount)
            except DomainError as error:
                self.note(f"refund refused: {type(error).__name__}")

    def dispute(self, number: int, result: str) -> None:
        of_plans = [one for one in self.history().contracts if one.charges or one.trial_until]
        found = [*(self.charges() if len(of_plans) == 1 else []), *self.packs()]
        if found:
            gateway, charge = found[number % len(found)]
            self.sites[gateway].dispute(charge.name, result)

    # --- Gateways tell -----------------------------------------------------------------------------------------------

    def deliver(self, gateway: str, how: str) -> None:
        """Deliver what waits: all, backwards, twice, every other one (the rest later) or not at all."""
        site = self.sites[gateway]
        waiting = list(site.server.state["notices"])
        chosen = waiting[::2] if how == "half" else waiting[::-1] if how == "backwards" else waiting
        for notice in [] if how == "lost" else chosen:
            for _ in range(2 if how == "twice" else 1):
                body = json.dumps(notice["body"]).encode()
                assert self._post(notice["url"], body, site.server.sign(notice["url"], body)) == 200
        kept = [notice for notice in waiting if notice not in chosen]
        site.server.state["notices"][:] = kept

    def forge(self, gateway: str) -> None:
        """Somebody else says something, signed with a secret of their own, or old, or with nothing."""
        site, before = self.sites[gateway], GatewayEvent.objects.count()
        waiting = site.server.state["notices"]
        notice = (
            waiting[-1] if waiting else {"url": site.server.notice_url + "?data.id=1&type=payment", "body": {"id": 1}}
        )
        body = json.dumps(notice["body"]).encode()
        genuine, site.server.notice_secret = site.server.notice_secret, "a secret of somebody else"
        try:
            headers = site.server.sign(notice["url"], body)
        finally:
            site.server.notice_secret = genuine
        for forged in (headers, {}):
            assert self._post(notice["url"], body, forged) == REFUSALS[gateway]
        assert GatewayEvent.objects.count() == before

    def _post(self, url: str, body: bytes, headers: Any) -> int:
        parts = urlsplit(url)
        address = f"{parts.path}?{parts.query}" if parts.query else parts.path
        return int(self._client.post(address, body, content_type="application/json", headers=headers).status_code)

    # --- The end -----------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Everything is up again, and time enough for what was put off."""
        self.clock.ahead = dt.timedelta()
        for site in self.sites.values():
            site.server._faults.clear()
        broken = _Broken()
        logging.getLogger("core.sweeps").addHandler(broken)
        try:
            for _ in range(12):
                self._pass(dt.timedelta(hours=6, minutes=1))
                for step in (reconciliation.work_off, reconciliation.ask_about_expected, reconciliation.reconcile):
                    step()
                reconciliation.work_off()
                if not self._is_waiting():
                    break
            assert not self._is_waiting(), "Something is never done."
        finally:
            logging.getLogger("core.sweeps").removeHandler(broken)
        assert not broken.records, broken.records

    def _is_waiting(self) -> bool:
        return any(model.objects.filter(done_at=None).exists() for model in (GatewayEvent, GatewayTask))

    def history(self) -> History:
        contracts = [contract for name in self.sites for contract in self._contracts(name)]
        return History(contracts, [pack for _name, pack in self.packs()], self.grants)

    def _contracts(self, name: str) -> list[Contract]:
        return self.sites[name].contracts(self.account_id, self.wishes, self.operators_refunds)

    def judge(self) -> None:
        """Compare what somebody has with what the oracle says they must."""
        history, now = self.history(), self.clock.now()
        complaints = oracle.complaints_about(history, now)
        assert not complaints, complaints
        expected = oracle.given_at(now, history)
        account = account_of(self.user.pk)
        access = access_of(account)
        period = find_or_grant(account, access.terms)
        assert (access.plan.key, access.until) == (expected.plan, expected.until), (expected, history)
        row = ("month" if expected.plan == "free" else "paid", expected.start or period.period_start)
        assert (str(period.kind), period.period_start) == row, (expected, history)
        assert expected.low <= (period.allowance_micros or 0) <= expected.high, (expected, period.allowance_micros)
        assert period.used_micros == self.used.get(row, 0)
        packs = {one.period_start: (one.allowance_micros, one.period_end) for one in packs_of(account)}
        assert packs == oracle.packs_at(now, history), (packs, history.packs)
        self._judge_rows(history, now)

    def sights(self) -> list[str]:
        """Return what there is in this history, in words: a soak says how often each was met."""
        history, now = self.history(), self.clock.now()
        charges = [charge for one in history.contracts for charge in one.charges]
        given = oracle.given_at(now, history)
        is_grace = any(found and found[1] for found in [oracle.given_by(one, now) for one in history.contracts])
        seen = {
            f"with {given.plan}": True,
            "in grace": is_grace,
            "renewed": any(len(one.charges) > 1 for one in history.contracts),
            "declined": any(one.was_declined for one in history.contracts),
            "upgraded": any(charge.is_upgrade for charge in charges),
            "of several plans": len({charge.plan for charge in charges}) > 1,
            "refunded by an operator": any(charge.refunded_by == "operator" for charge in charges),
            "bought twice": any(one.is_given_back for one in history.contracts),
            "cancelled": any(one.is_cancelled for one in history.contracts),
            "of both gateways": len({one.counts_from_payment for one in history.contracts}) > 1,
            **{f"disputed and {charge.dispute}": True for charge in charges if charge.dispute},
            "used": bool(self.used),
            "used of a pack": any(kind == "pack" for kind, _start in self.used),
            "with packs": bool(history.packs),
            "with a grant": any(grant.holds(now) for grant in history.grants),
            "tried": any(one.was_tried for one in history.contracts),
            "never paid": any(not one.charges and not one.trial_until for one in history.contracts),
            "killed": self.deaths.count > 0,
        }
        self.deaths.count = 0
        return [what for what, is_there in seen.items() if is_there]

    def _judge_rows(self, history: History, now: dt.datetime) -> None:
        """No month, trial or pack was given twice, or more than was paid for; what was used is all there."""
        given = UsagePeriod.objects.filter(account=self.account_id)
        bought = {pack.at: pack.micros for pack in history.packs}
        for period in given.filter(kind="pack"):
            assert period.allowance_micros == bought.get(period.period_start), (period.period_start, bought)
        tried = list(given.filter(kind="paid", plan=None).values_list("allowance_micros", flat=True))
        assert tried in ([], [oracle.TRIAL_GIVES]), tried
        most = oracle.most_of_months(history, now)
        for period in given.filter(kind="paid", plan__isnull=False):
            assert (period.allowance_micros or 0) <= most.get(period.period_start, 0), (period.period_start, most)
        rows = UsagePeriod.objects.filter(account=self.account_id, used_micros__gt=0)
        assert {(str(row.kind), row.period_start): row.used_micros for row in rows} == self.used
        assert not metering.list_unbalanced_periods().exists()
        assert not metering.list_unbalanced_accounts().exists()

    def price(self, gateway: str, plan: str, interval: str) -> Price:
        return Price.objects.get(gateway=gateway, reference=f"{plan}-{interval}-{CURRENCIES[gateway]}")

    def note(self, text: str) -> None:
        self.diary.append(f"{self.clock.at:%m-%d %H:%M} {text}")


class _Broken(logging.Handler):
    """Keeps what sweeps could not do."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(self.format(record))


def forget_what_was_bought() -> None:
    """Delete what another history left that a worker would look at."""
    bought = [Payment, Subscription, Purchase, GatewayEvent, GatewayTask]
    about = {relation.related_model for model in bought for relation in model._meta.related_objects}
    with transaction.atomic():
        for model in (*(about - set(bought)), *bought):
            model._default_manager.all()._raw_delete("default")
