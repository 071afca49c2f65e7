"""Simulates Mercado Pago for a newcomer and for tests: `python -m config.embedded.simulated_mercadopago --port 18083`.

It is not Mercado Pago: what it knows is what this site asks. Its page at `/` renews, fails and disputes on demand; a
test does so with the controls of `simulated_gateway.py` and with

- `POST /_control/renew` `{"id": subscription}`: its next instalment is due now;
- `POST /_control/card` `{"id": subscription, "card": "good" | "bad"}`: whether its card can be charged from now on;
- `POST /_control/settle` `{"id": payment, "status": "approved" | "rejected" | "expired"}`: what a pending one comes to;
- `POST /_control/dispute` `{"id": payment, "result": "open" | "won" | "lost"}`: its payer's bank takes it back;
- `POST /_control/seller` `{"site_id": "MLB", "is_test": true}`: whose the access token is. One that ends
  with a country, such as `TEST-simulated-MX`, says so itself;
- `POST /_control/signature` `{"unit": "s" | "ms"}`: how notifications tell the time.
"""

import hashlib
import hmac
import html
import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from config.embedded import simulated_mercadopago_shapes as shapes
from config.embedded.simulated_gateway import (
    AHEAD_OF_TIME,
    Refusal,
    Reply,
    Request,
    Route,
    SimulatedGateway,
    button,
    in_each_language,
    page,
    redirect,
    run_gateway,
)
from config.embedded.simulated_mercadopago_shapes import Json, format_time, parse_time

FIRST_INSTALMENT_SECONDS = 5
"""Mercado Pago takes up to an hour. Nobody would wait so long for a simulation."""
DAY = 86_400
RETRY_DAYS = (3, 3, 4)
"""Between the attempts at an instalment: four of them, within ten days."""
MOST_REJECTED = 3
"""Instalments that come to nothing end a subscription."""
VOUCHER_SECONDS = 3 * DAY
VALIDATION = {"BRL": 1.0, "CLP": 100.0, "COP": 1000.0}


class SimulatedMercadoPago(SimulatedGateway):
    name = "mercadopago"

    def empty_state(self) -> Json:
        kinds = ("preapprovals", "instalments", "payments", "preferences", "orders", "chargebacks")
        return {
            **{kind: {} for kind in kinds},
            "cards": {},  # by subscription: "good" or "bad"
            "emails": {},
            "answers": {},  # by idempotency key
            "seller": {"site_id": "MLA", "is_test": True},
            "unit": "s",
            "last": 6_000_000_000,
        }

    def routes(self) -> Sequence[Route]:
        word = "([^/]+)"
        return [
            ("GET", "/users/me", self._authorized(self._show_seller)),
            ("POST", "/preapproval", self._authorized(self._create_preapproval)),
            ("GET", "/preapproval/search", self._authorized(self._search_preapprovals)),
            ("GET", f"/preapproval/{word}", self._authorized(self._show("preapprovals"))),
            ("PUT", f"/preapproval/{word}", self._authorized(self._update_preapproval)),
            ("GET", "/authorized_payments/search", self._authorized(self._search_instalments)),
            ("GET", f"/authorized_payments/{word}", self._authorized(self._show("instalments"))),
            ("GET", "/v1/payments/search", self._authorized(self._search_payments)),
            ("GET", f"/v1/payments/{word}", self._authorized(self._show("payments"))),
            ("PUT", f"/v1/payments/{word}", self._authorized(self._update_payment)),
            ("GET", f"/v1/payments/{word}/refunds", self._authorized(self._list_refunds)),
            ("POST", f"/v1/payments/{word}/refunds", self._authorized(self._create_refund)),
            ("POST", "/checkout/preferences", self._authorized(self._create_preference)),
            ("GET", "/checkout/preferences/search", self._authorized(self._search_preferences)),
            ("GET", f"/checkout/preferences/{word}", self._authorized(self._show("preferences"))),
            ("PUT", f"/checkout/preferences/{word}", self._authorized(self._update_preference)),
            ("GET", f"/merchant_orders/{word}", self._authorized(self._show("orders"))),
            ("GET", f"/v1/chargebacks/{word}", self._authorized(self._show("chargebacks"))),
            ("GET", "/", self._show_overview),
            ("GET", "/subscriptions", self._show_overview),
            ("POST", "/act", self._act),
            ("GET", "/subscriptions/checkout", self._show_subscription_checkout),
            ("POST", "/subscriptions/checkout", self._pay_subscription),
            ("GET", "/checkout/v1/redirect", self._show_checkout),
            ("POST", "/checkout/v1/redirect", self._pay_preference),
            ("GET", f"/payments/{word}/ticket", self._show_voucher),
            *((("POST", f"/_control/{act}", self._control(handler))) for act, handler in self._controls().items()),
        ]

    # --- Clock -------------------------------------------------------------------------------------------------------

    def on_clock(self) -> None:
        """Charge what is due by now, in the order it fell due, and let unpaid vouchers expire."""
        while due := self._next_due():
            at, act = due
            act(at)
        for voucher in self._pending_payments():
            if voucher["date_of_expiration"] and parse_time(voucher["date_of_expiration"]) <= self.now():
                self._set_payment(voucher, "cancelled", "expired")

    def _next_due(self) -> tuple[int, Callable[[int], None]] | None:
        """Return the earliest thing that is due, and how it is done."""
        found: list[tuple[int, str, Callable[[int], None]]] = []
        for subscription in self.state["preapprovals"].values():
            if subscription["status"] == "authorized":
                due = parse_time(subscription["next_payment_date"])
                found.append((due, subscription["id"], partial(self._begin_instalment, subscription)))
        for instalment in self.state["instalments"].values():
            subscription = self.state["preapprovals"][instalment["preapproval_id"]]
            if instalment["status"] == "recycling" and subscription["status"] == "authorized":
                due = parse_time(instalment["next_retry_date"])
                found.append((due, str(instalment["id"]), partial(self._charge, instalment)))
        at, _key, act = min(found, key=lambda thing: thing[:2], default=(self.now() + 1, "", self._do_nothing))
        return (at, act) if at <= self.now() else None

    def _do_nothing(self, _at: int) -> None:
        """Nothing is due."""

    # --- Subscriptions -----------------------------------------------------------------------------------------------

    def _create_preapproval(self, request: Request) -> Reply:
        asked = request.json()
        missing = [name for name in ("reason", "payer_email", "back_url", "auto_recurring") if not asked.get(name)]
        if missing or asked.get("status") != "pending":
            raise _bad_request(f"{(missing or ['status'])[0]} is required")
        if known := self._answered(request):
            return known
        self._check_currency(asked["auto_recurring"]["currency_id"])
        number = uuid.uuid4().hex
        made = shapes.preapproval(
            number, asked, self.now(), f"{self.url}/subscriptions/checkout?preapproval_id={number}"
        )
        self.state["preapprovals"][number] = made
        self.state["emails"][number] = asked["payer_email"]
        self._tell("subscription_preapproval", number, "created")
        return self._answer_once(request, made, 201)

    def _update_preapproval(self, request: Request, number: str) -> Reply:
        subscription, asked = self._find("preapprovals", number), request.json()
        if subscription["status"] == "cancelled":
            raise _bad_request("You can not modify a cancelled preapproval.")
        recurring = asked.get("auto_recurring") or {}
        if set(recurring) - {"transaction_amount", "currency_id"}:
            raise _bad_request("auto_recurring: only the amount can be modified")
        subscription["auto_recurring"] |= recurring
        subscription |= {name: asked[name] for name in ("external_reference", "reason", "back_url") if name in asked}
        status = str(asked.get("status", subscription["status"]))
        if status not in ("cancelled", "paused", "authorized", subscription["status"]):
            raise _bad_request("Invalid status")
        if status == "authorized" and subscription["status"] == "pending":
            raise _bad_request("card_token_id is required")
        self._set_preapproval(subscription, status)
        return Reply(subscription)

    def _set_preapproval(self, subscription: Json, status: str) -> None:
        if status == "authorized" and subscription["status"] == "paused":  # what fell due meanwhile is left out
            months, due = subscription["auto_recurring"]["frequency"], parse_time(subscription["next_payment_date"])
            begun, missed = due, 0
            while due <= self.now():
                missed += 1
                due = shapes.months_after(begun, missed * months)
            subscription["next_payment_date"] = format_time(due)
        subscription |= {"status": status, "last_modified": format_time(self.now())}
        subscription["version"] += 1
        if status == "cancelled":
            for instalment in self._instalments_of(subscription):
                if instalment["status"] in ("scheduled", "recycling"):
                    instalment |= {"status": "cancelled", "next_retry_date": None}
        self._tell("subscription_preapproval", subscription["id"], "updated")

    def _begin_instalment(self, subscription: Json, at: int) -> None:
        months = subscription["auto_recurring"]["frequency"]
        begun = parse_time(subscription["auto_recurring"]["start_date"])
        number = 1 + sum(1 for _ in self._instalments_of(subscription))
        count = number  # one that was renewed early is not charged for the same month again
        while shapes.months_after(begun, count * months) <= at + DAY:
            count += 1
        subscription["next_payment_date"] = format_time(shapes.months_after(begun, count * months))
        instalment = shapes.instalment(self._next_number(), subscription, at, at)
        self.state["instalments"][str(instalment["id"])] = instalment
        self._tell("subscription_authorized_payment", instalment["id"], "created")
        self._charge(instalment, at, is_first=number == 1)

    def _charge(self, instalment: Json, at: int, *, is_first: bool = False) -> None:
        subscription = self.state["preapprovals"][instalment["preapproval_id"]]
        made = self._new_payment(
            at,
            amount=instalment["transaction_amount"],
            currency=instalment["currency_id"],
            reference=instalment["external_reference"],
            description=instalment["reason"],
        )
        made |= {
            "operation_type": "recurring_payment",
            "point_of_interaction": shapes.recurring_data(subscription, parse_time(instalment["debit_date"])),
            "metadata": {"preapproval_id": subscription["id"]} if is_first else {},  # it may be missing
        }
        is_good = self.state["cards"].get(subscription["id"]) == "good"
        self._set_payment(made, *(("approved", "accredited") if is_good else ("rejected", "cc_rejected_other_reason")))
        attempt = instalment["retry_attempt"]
        instalment |= {"payment": _in_short(made), "last_modified": format_time(at), "retry_attempt": attempt + 1}
        if is_good or attempt >= len(RETRY_DAYS):
            instalment |= {"status": "processed", "next_retry_date": None}
        else:
            instalment |= {"status": "recycling", "next_retry_date": format_time(at + RETRY_DAYS[attempt] * DAY)}
        self._tell("subscription_authorized_payment", instalment["id"], "updated")
        self._end_if_rejected(subscription)

    def _end_if_rejected(self, subscription: Json) -> None:
        done = [found for found in self._instalments_of(subscription) if found["status"] == "processed"]
        if sum(found["payment"]["status"] == "rejected" for found in done) >= MOST_REJECTED:
            self._set_preapproval(subscription, "cancelled")

    def _instalments_of(self, subscription: Json) -> Iterable[Json]:
        found = self.state["instalments"].values()
        return (instalment for instalment in found if instalment["preapproval_id"] == subscription["id"])

    # --- Payments ----------------------------------------------------------------------------------------------------

    def _new_payment(self, at: int, **terms: Any) -> Json:
        made = shapes.payment(self._next_number(), at, **terms)
        self.state["payments"][str(made["id"])] = made
        return made

    def _set_payment(self, payment: Json, status: str, detail: str, at: int = 0) -> None:
        is_new = payment["status"] == "pending" and payment["date_created"] == payment["date_last_updated"]
        moment = format_time(at or max(self.now(), parse_time(payment["date_created"])))
        payment |= {"status": status, "status_detail": detail, "date_last_updated": moment}
        if status == "approved" and not payment["date_approved"]:
            payment["date_approved"] = (
                payment["date_created"] if payment["operation_type"] != "regular_payment" else moment
            )
        self._tell("payment", payment["id"], "created" if is_new else "updated")

    def _pending_payments(self) -> list[Json]:
        return [found for found in self.state["payments"].values() if found["status"] == "pending"]

    def _update_payment(self, request: Request, number: str) -> Reply:
        payment = self._find("payments", number)
        if request.json().get("status") != "cancelled" or payment["status"] not in ("pending", "in_process"):
            raise _bad_request("Invalid state for this operation")
        self._set_payment(payment, "cancelled", "by_collector")
        return Reply(payment)

    def _list_refunds(self, _request: Request, number: str) -> Reply:
        return Reply(self._find("payments", number)["refunds"])

    def _create_refund(self, request: Request, number: str) -> Reply:
        if known := self._answered(request):
            return known
        payment = self._find("payments", number)
        left = payment["transaction_amount"] - payment["transaction_amount_refunded"]
        amount = request.json().get("amount") or left
        if payment["status"] != "approved" or amount > left:
            raise _bad_request("The action requested is not valid for the current payment state")
        refund = {
            "id": self._next_number(),
            "payment_id": payment["id"],
            "amount": amount,
            "status": "approved",
            "date_created": format_time(self.now()),
        }
        payment["refunds"].append(refund)
        payment["transaction_amount_refunded"] += amount
        is_whole = payment["transaction_amount_refunded"] >= payment["transaction_amount"]
        self._set_payment(payment, *(("refunded", "refunded") if is_whole else ("approved", "partially_refunded")))
        return self._answer_once(request, refund, 201)

    # --- Checkout Pro ------------------------------------------------------------------------------------------------

    def _create_preference(self, request: Request) -> Reply:
        if known := self._answered(request):
            return known
        asked = request.json()
        if not asked.get("items"):
            raise _bad_request("items is required")
        if asked.get("auto_return") and not str(asked["back_urls"].get("success")).startswith("https:"):
            raise _bad_request("auto_return invalid. back_url.success must be defined")
        self._check_currency(asked["items"][0]["currency_id"])
        number = f"{shapes.SELLER_ID}-{uuid.uuid4()}"
        made = shapes.preference(number, asked, self.now(), f"{self.url}/checkout/v1/redirect?pref_id={number}")
        self.state["preferences"][number] = made
        return self._answer_once(request, made, 201)

    def _update_preference(self, request: Request, number: str) -> Reply:
        preference = self._find("preferences", number)
        preference |= {name: value for name, value in request.json().items() if name in preference}
        return Reply(preference)

    def _is_over(self, preference: Json) -> bool:
        until = preference["expires"] and preference["expiration_date_to"]
        return bool(until) and parse_time(until) <= self.now()

    # --- Searching ---------------------------------------------------------------------------------------------------

    def _show_seller(self, _request: Request) -> Reply:
        known = self.state["seller"]
        return Reply(shapes.seller(known["site_id"], is_test=known["is_test"]))

    def _search_preapprovals(self, request: Request) -> Reply:
        email, status = request.query.get("payer_email"), request.query.get("status")
        found = [
            known
            for known in self.state["preapprovals"].values()
            if email in (None, self.state["emails"][known["id"]]) and status in (None, known["status"])
        ]
        return _page_of(found, request)

    def _search_instalments(self, request: Request) -> Reply:
        wanted, payment = request.query.get("preapproval_id"), request.query.get("payment_id")
        found = [
            known
            for known in self.state["instalments"].values()
            if wanted in (None, known["preapproval_id"]) and payment in (None, str((known["payment"] or {}).get("id")))
        ]
        return _page_of(found, request)

    def _search_payments(self, request: Request) -> Reply:
        reference, by = request.query.get("external_reference"), request.query.get("range", "date_created")
        begun = request.query.get("begin_date")
        found = [
            known
            for known in self.state["payments"].values()
            if reference in (None, known["external_reference"])
            and (begun is None or parse_time(known[by]) >= parse_time(begun))
        ]
        return _page_of(found, request)

    def _search_preferences(self, request: Request) -> Reply:
        reference = request.query.get("external_reference")
        found = [known for known in self.state["preferences"].values() if known["external_reference"] == reference]
        return _page_of(found, request, name="elements")

    def _show(self, kind: str) -> Callable[..., Reply]:
        return lambda _request, number: Reply(self._find(kind, number))

    def _find(self, kind: str, number: object) -> Json:
        found: Json | None = self.state[kind].get(str(number))
        if found is None:
            raise Refusal({"message": f"{number} not found", "error": "not_found", "status": 404, "cause": []}, 404)
        return found

    # --- Pages -------------------------------------------------------------------------------------------------------

    def _show_subscription_checkout(self, request: Request) -> Reply:
        subscription = self._find("preapprovals", request.query.get("preapproval_id"))
        if subscription["status"] != "pending":
            return page(
                "Mercado Pago",
                _text(f"Suscripción · Subscription · Assinatura: {subscription['status']}"),
                _link("/subscriptions"),
            )
        action = request.path + "?" + urlencode({"preapproval_id": subscription["id"]})
        recurring = subscription["auto_recurring"]
        return page(
            "Mercado Pago",
            _text(subscription["reason"]),
            _text(f"{recurring['transaction_amount']:.2f} {recurring['currency_id']} / {recurring['frequency']} m"),
            button(action, "do", "pay", "Suscribirme · Subscribe · Assinar"),
            button(action, "do", "bad", "Con una tarjeta sin fondos · With an empty card · Com um cartão sem saldo"),
            button(action, "do", "leave", "Volver sin pagar · Go back unpaid · Voltar sem pagar"),
        )

    def _pay_subscription(self, request: Request) -> Reply:
        subscription = self._find("preapprovals", request.query.get("preapproval_id"))
        choice = dict(request.form()).get("do")
        if choice in ("pay", "bad") and subscription["status"] == "pending":
            self._authorize(subscription, "good" if choice == "pay" else "bad")
        return redirect(_with_query(subscription["back_url"], {"preapproval_id": subscription["id"]}))

    def _authorize(self, subscription: Json, card: str) -> None:
        """The payer agreed. The card is tried with a small charge, which is given back; the first instalment comes."""
        self.state["cards"][subscription["id"]] = card
        recurring = subscription["auto_recurring"]
        begins = max(self.now() + FIRST_INSTALMENT_SECONDS, parse_time(recurring["start_date"]))
        recurring["start_date"] = format_time(begins)
        subscription |= {
            "payer_id": shapes.PAYER_ID + int(hashlib.sha256(self._email_of(subscription)).hexdigest()[:6], 16),
            "payment_method_id": "visa",
            "card_id": str(self._next_number()),
            "next_payment_date": format_time(begins),
        }
        self._set_preapproval(subscription, "authorized")
        trial = self._new_payment(
            self.now(),
            amount=VALIDATION.get(recurring["currency_id"], 10.0),
            currency=recurring["currency_id"],
            reference=subscription["external_reference"],
            description=subscription["reason"],
        )
        trial["operation_type"] = "card_validation"
        self._set_payment(trial, "approved", "accredited")
        trial["transaction_amount_refunded"] = trial["transaction_amount"]
        self._set_payment(trial, "refunded", "refunded")

    def _email_of(self, subscription: Json) -> bytes:
        return str(self.state["emails"][subscription["id"]]).encode()

    def _show_checkout(self, request: Request) -> Reply:
        preference = self._find("preferences", request.query.get("pref_id"))
        item = preference["items"][0]
        parts = [_text(item["title"]), _text(f"{item['unit_price']:.2f} {item['currency_id']}")]
        if self._is_over(preference):
            return page("Mercado Pago", *parts, _text("Venció. · It has expired. · Expirou."))
        action = request.path + "?" + urlencode({"pref_id": preference["id"]})
        parts.append(button(action, "do", "approved", "Pagar con tarjeta · Pay by card · Pagar com cartão"))
        for method, label in shapes.CASH.get(item["currency_id"], ()):
            parts.append(button(action, "do", method, f"{label}: pagar después · pay later · pagar depois"))
        parts.append(button(action, "do", "rejected", "Tarjeta sin fondos · An empty card · Cartão sem saldo"))
        parts.append(button(action, "do", "leave", "Volver sin pagar · Go back unpaid · Voltar sem pagar"))
        return page("Mercado Pago", *parts)

    def _pay_preference(self, request: Request) -> Reply:
        preference, choice = self._find("preferences", request.query.get("pref_id")), dict(request.form()).get("do", "")
        back_urls, told = preference["back_urls"], {"preference_id": preference["id"]}
        if choice == "leave" or self._is_over(preference):
            return redirect(_with_query(back_urls["failure"], {**told, "status": "null"}))
        made = self._pay(preference, choice)
        outcome = {"approved": "success", "rejected": "failure"}.get(made["status"], "pending")
        told |= {"payment_id": str(made["id"]), "status": made["status"], "merchant_order_id": made["order"]["id"]}
        return redirect(_with_query(back_urls[outcome], told))

    def _pay(self, preference: Json, choice: str) -> Json:
        item = preference["items"][0]
        made = self._new_payment(
            self.now(),
            amount=item["unit_price"],
            currency=item["currency_id"],
            reference=preference["external_reference"],
            description=item["title"],
        )
        self._add_to_order(preference, made)
        if choice in ("approved", "rejected"):
            detail = "accredited" if choice == "approved" else "cc_rejected_insufficient_amount"
            self._set_payment(made, choice, detail)
            return made
        made |= self._voucher(made, choice, preference)
        self._tell("payment", made["id"], "created")
        return made

    def _voucher(self, payment: Json, method: str, preference: Json) -> Json:
        url, number = f"{self.url}/payments/{payment['id']}/ticket", str(payment["id"])
        until = preference["date_of_expiration"] or format_time(self.now() + VOUCHER_SECONDS)
        details = {**payment["transaction_details"], "external_resource_url": url}
        data = {}
        if method == "pix":
            data = {"qr_code": f"00020126580014br.gov.bcb.pix0136{number}", "ticket_url": url}
        else:
            details |= {"payment_method_reference_id": number, "barcode": {"content": number * 3}}
        return {
            "payment_method_id": method,
            "payment_type_id": "bank_transfer" if method in shapes.BANK_TRANSFERS else "ticket",
            "status_detail": "pending_waiting_transfer" if method == "pix" else "pending_waiting_payment",
            "date_of_expiration": until,
            "transaction_details": details,
            "point_of_interaction": {"type": "CHECKOUT", "transaction_data": data},
        }

    def _add_to_order(self, preference: Json, payment: Json) -> None:
        number = str(self._next_number())
        self.state["orders"][number] = {
            "id": int(number),
            "preference_id": preference["id"],
            "external_reference": preference["external_reference"],
            "payments": [{"id": payment["id"]}],
            "order_status": "paid",
        }
        payment["order"] = {"id": number, "type": "mercadopago"}
        self._tell("topic_merchant_order_wh", number, "created")

    def _show_voucher(self, _request: Request, number: str) -> Reply:
        payment = self._find("payments", number)
        parts = [_text(f"{payment['transaction_amount']:.2f} {payment['currency_id']}: {payment['status']}")]
        if payment["status"] == "pending":
            parts.append(_act_button("settle", number, "approved", "Ya lo pagué · I have paid it · Já paguei"))
            parts.append(_act_button("settle", number, "expired", "Dejarlo vencer · Let it expire · Deixar expirar"))
        return page("Mercado Pago", *parts, self.way_back())

    def _show_overview(self, _request: Request) -> Reply:
        parts = [in_each_language(*AHEAD_OF_TIME)]
        for subscription in self.state["preapprovals"].values():
            number = subscription["id"]
            words = f"{self.state['emails'][number]}: {subscription['reason']}, {subscription['status']}"
            parts.append(f"<h2>{html.escape(words)}</h2>")
            if subscription["status"] == "authorized":
                parts.append(_act_button("renew", number, "", "Renovar ahora · Renew now · Renovar agora"))
                parts.append(
                    _act_button("card", number, "bad", "La tarjeta deja de pagar · The card fails · O cartão falha")
                )
                parts.append(_act_button("card", number, "good", "Otra tarjeta · Another card · Outro cartão"))
                parts.append(_act_button("pause", number, "", "Pausar · Pause · Pausar"))
            if subscription["status"] in ("authorized", "paused"):
                parts.append(_act_button("cancel", number, "", "Cancelar · Cancel · Cancelar"))
        for payment in self.state["payments"].values():
            if payment["operation_type"] == "card_validation":
                continue
            number = str(payment["id"])
            parts.append(_text(f"{number}, {payment['description']}: {payment['status']} {payment['status_detail']}"))
            if payment["status"] == "pending":
                parts.append(_link(f"/payments/{number}/ticket"))
            if payment["status"] == "approved":
                parts.append(_act_button("dispute", number, "open", "Disputa · Dispute · Disputa"))
        return page("Mercado Pago", *parts, self.way_back())

    def _act(self, request: Request) -> Reply:
        asked = dict(request.form())
        act, number, value = asked["act"].split(" ", 2)
        handler = {**self._controls(), "pause": self._pause, "cancel": self._cancel}[act]
        handler({"id": number, "card": value, "status": value, "result": value})
        return redirect("/")

    # --- Controls ----------------------------------------------------------------------------------------------------

    def _controls(self) -> Mapping[str, Callable[[Json], object]]:
        return {
            "renew": self._renew,
            "card": self._set_card,
            "settle": self._settle,
            "dispute": self._dispute,
            "seller": lambda asked: self.state["seller"].update(asked),
            "signature": lambda asked: self.state.update(unit=asked["unit"]),
            "pause": self._pause,
            "cancel": self._cancel,
        }

    def _control(self, handler: Callable[[Json], object]) -> Callable[[Request], Reply]:
        def answer(request: Request) -> Reply:
            handler(request.json())
            return Reply({})

        return answer

    def _renew(self, asked: Json) -> None:
        """Charge the subscription now, for the time it would be charged for next."""
        subscription = self._find("preapprovals", asked["id"])
        if subscription["status"] != "authorized":
            raise _bad_request("it is not authorized")
        waiting = [found for found in self._instalments_of(subscription) if found["status"] == "recycling"]
        if waiting:
            self._charge(waiting[0], self.now())
        else:
            self._begin_instalment(subscription, self.now())

    def _set_card(self, asked: Json) -> None:
        self.state["cards"][self._find("preapprovals", asked["id"])["id"]] = asked["card"]

    def _settle(self, asked: Json) -> None:
        payment = self._find("payments", asked["id"])
        outcomes = {
            "approved": ("approved", "accredited"),
            "rejected": ("rejected", "rejected_by_bank"),
            "expired": ("cancelled", "expired"),
        }
        if payment["status"] != "pending":
            raise _bad_request("it is not pending")
        self._set_payment(payment, *outcomes[asked["status"]])

    def _dispute(self, asked: Json) -> None:
        payment, result = self._find("payments", asked["id"]), asked["result"]
        known = next(
            (found for found in self.state["chargebacks"].values() if payment["id"] in found["payments"]), None
        )
        if known is None:
            known = shapes.chargeback(str(self._next_number()), payment, self.now())
            self.state["chargebacks"][known["id"]] = known
        known |= {"coverage_applied": {"open": None, "won": True, "lost": False}[result]}
        known["date_last_updated"] = format_time(self.now())
        detail = {"open": "in_process", "won": "reimbursed", "lost": "settled"}[result]
        self._set_payment(payment, "charged_back", detail)
        self._tell("topic_chargebacks_wh", known["id"], "updated")

    def _pause(self, asked: Json) -> None:
        self._set_preapproval(self._find("preapprovals", asked["id"]), "paused")

    def _cancel(self, asked: Json) -> None:
        self._set_preapproval(self._find("preapprovals", asked["id"]), "cancelled")

    # --- Wire --------------------------------------------------------------------------------------------------------

    def _authorized(self, handler: Callable[..., Reply]) -> Callable[..., Reply]:
        def answer(request: Request, *groups: str) -> Reply:
            kind, _, token = request.headers.get("authorization", "").partition(" ")
            if kind != "Bearer" or not token.startswith(("TEST-", "APP_USR-")):
                raise Refusal({"message": "invalid access token", "error": "unauthorized", "status": 401}, 401)
            if (country := token.rpartition("-")[2]) in shapes.COUNTRIES:
                self.state["seller"]["site_id"] = shapes.COUNTRIES[country]
            return handler(request, *groups)

        return answer

    def _answered(self, request: Request) -> Reply | None:
        """Return what was answered to the same request before. The same key with another one is refused."""
        known = self.state["answers"].get(request.headers.get("x-idempotency-key"))
        if known is None:
            return None
        if known["asked"] != [request.path, request.body.decode()]:
            raise Refusal({"message": "The idempotency key was used before", "error": "conflict", "status": 409}, 409)
        return Reply(known["content"], known["status"])

    def _answer_once(self, request: Request, content: Json, status: int) -> Reply:
        if key := request.headers.get("x-idempotency-key"):
            asked = [request.path, request.body.decode()]
            kept = json.loads(json.dumps(content))
            self.state["answers"][key] = {"asked": asked, "content": kept, "status": status}
        return Reply(content, status)

    def _check_currency(self, currency: str) -> None:
        if shapes.SITES.get(currency) != self.state["seller"]["site_id"]:
            raise _bad_request("Invalid currency_id for the collector's site")

    def _next_number(self) -> int:
        self.state["last"] += 1
        return int(self.state["last"])

    def _tell(self, topic: str, number: object, act: str) -> None:
        """Notify the site. The id is signed in the address."""
        if not self.notice_url:
            return
        body = {
            "id": self._next_number(),
            "type": topic,
            "action": f"{topic}.{act}",
            "api_version": "v1",
            "date_created": format_time(self.now()),
            "live_mode": True,
            "user_id": shapes.SELLER_ID,
            "data": {"id": str(number)},
        }
        self.notify(body, url=f"{self.notice_url}?{urlencode({'data.id': number, 'type': topic})}")

    def sign(self, url: str, body: bytes) -> Mapping[str, str]:
        data_id = dict(parse_qsl(urlsplit(url).query))["data.id"]
        request_id = str(uuid.uuid5(uuid.NAMESPACE_URL, str(json.loads(body)["id"])))  # the same at each attempt
        sent_at = int(time.time() * (1000 if self.state["unit"] == "ms" else 1))
        manifest = f"id:{data_id};request-id:{request_id};ts:{sent_at};"
        signature = hmac.new(self.notice_secret.encode(), manifest.encode(), hashlib.sha256).hexdigest()
        return {"x-signature": f"ts={sent_at},v1={signature}", "x-request-id": request_id}


def _bad_request(message: str) -> Refusal:
    return Refusal({"message": message, "error": "bad_request", "status": 400, "cause": []}, 400)


def _page_of(found: list[Json], request: Request, *, name: str = "results") -> Reply:
    offset, limit = int(request.query.get("offset", 0)), int(request.query.get("limit", 30))
    paging = {"offset": offset, "limit": limit, "total": len(found)}
    return Reply({"paging": paging, name: found[offset : offset + limit]})


def _in_short(payment: Json) -> Json:
    return {name: payment[name] for name in ("id", "status", "status_detail")}


def _with_query(url: str, query: Mapping[str, str]) -> str:
    return url + ("&" if "?" in url else "?") + urlencode(query)


def _text(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _link(url: str) -> str:
    return f'<p><a href="{html.escape(url)}">{html.escape(url)}</a></p>'


def _act_button(act: str, number: str, value: str, label: str) -> str:
    return button("/act", "act", f"{act} {number} {value}", label)


if __name__ == "__main__":
    run_gateway(SimulatedMercadoPago)
