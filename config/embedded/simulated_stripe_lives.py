"""What the simulated Stripe does by itself: renews, charges, tries again, ends, prorates.

`Lives` works on the objects of the state, by type and id, and tells `emit` of every change. Payments come out as the
customer's card says: "ok", "decline" or "confirm" (the bank wants a confirmation).
"""

import calendar
import datetime as dt
import secrets
from collections.abc import Callable, Iterator
from typing import Any

from config.embedded import simulated_stripe_shapes as shapes
from config.embedded.simulated_stripe_shapes import Shape

HOUR, DAY = 3_600, 86_400
RETRY_DAYS = (3, 5, 7)
"""How many days after each failed attempt a renewal is charged again; then the subscription ends."""
UPDATE_SECONDS = 23 * HOUR
"""How long an upgrade waits for its payment."""
VOUCHER = "boleto_display_details"
PAID_LATER = ("active", "trialing", "past_due")

Emit = Callable[[str, Shape, int], None]
"""Told of a change: what happened, to what, and when."""


class Lives:
    """`objects[type][id]` is the state; `now` is the gateway's clock, or the instant of what is being caught up on."""

    def __init__(self, objects: dict[str, dict[str, Shape]], emit: Emit, clock: Callable[[], int], base: str) -> None:
        self.objects, self._tell, self._clock, self._base = objects, emit, clock, base
        self._at: int | None = None

    def now(self) -> int:
        return self._clock() if self._at is None else self._at

    def _emit(self, kind: str, about: Shape) -> None:
        self._tell(kind, about, self.now())

    def new_id(self, prefix: str) -> str:
        return f"{prefix}_{secrets.token_hex(12)}"

    def keep(self, found: Shape) -> Shape:
        self.objects.setdefault(found["object"], {})[found["id"]] = found
        return found

    def all_of(self, kind: str, **fields: Any) -> Iterator[Shape]:
        """Yield the objects of a type whose fields are these, the newest first."""
        for found in reversed(list(self.objects.get(kind, {}).values())):
            if all(found.get(name) == value for name, value in fields.items()):
                yield found

    def get(self, kind: str, object_id: str) -> Shape:
        return self.objects[kind][object_id]

    # --- Time --------------------------------------------------------------------------------------------------------

    def catch_up(self) -> bool:
        """Do everything that is due by now, in the order it is due; return whether there was anything."""
        return self._do_all_due(self._clock())

    def run_ahead(self, subscription: Shape) -> None:
        """Go on to the next charge of one subscription, as if it were time already. Nobody else is charged."""
        due = [at for at, act, found in self._all_due(subscription["id"]) if act == self.charge]
        self._do_all_due(min(due, default=self.next_renewal(subscription)), subscription["id"])

    def _do_all_due(self, until: int, only: str = "") -> bool:
        is_changed = False
        while (due := min(self._all_due(only), default=None, key=lambda due: due[0])) and due[0] <= until:
            at, act, found = due
            self._at, is_changed = at, True
            try:
                act(found)
            finally:
                self._at = None
        return is_changed

    def next_renewal(self, subscription: Shape) -> int:
        """Return when its next invoice is charged."""
        return int(item_of(subscription)["current_period_end"]) + HOUR

    def _all_due(self, only: str = "") -> Iterator[tuple[int, Callable[[Shape], None], Shape]]:
        """Yield what is going to happen, and when; of one subscription, if its id is given."""
        for at, act, found in self._all_coming():
            if not only or only in (found["id"], found["object"] == "invoice" and subscription_of(found)):
                yield at, act, found

    def _all_coming(self) -> Iterator[tuple[int, Callable[[Shape], None], Shape]]:
        for found in self.all_of("subscription"):
            if found["status"] == "incomplete" and not self._waits_for_voucher(found):
                yield found["created"] + UPDATE_SECONDS, self._expire, found
            if found["status"] not in PAID_LATER:
                continue
            if (end := found["cancel_at"]) is not None:
                yield end, self.cancel, found
            if (update := found["pending_update"]) is not None:
                yield update["expires_at"], self._drop_update, found
            yield item_of(found)["current_period_end"], self._roll_over, found
        for found in self.all_of("invoice", status="draft"):
            yield found["created"] + HOUR, self.charge, found
        for found in self.all_of("invoice", status="open"):
            if found["next_payment_attempt"] is not None:
                yield found["next_payment_attempt"], self.charge, found
        for found in self.all_of("payment_intent", status="requires_action"):
            if found["next_action"]["type"] == VOUCHER:
                yield found["next_action"][VOUCHER]["expires_at"], self._expire_voucher, found
        for found in self.all_of("checkout.session", status="open"):
            yield found["expires_at"], self.expire_session, found

    # --- Subscriptions -----------------------------------------------------------------------------------------------

    def start(self, customer_id: str, price: Shape, asked: Shape) -> Shape:
        """Create a subscription and its first invoice, which is still to be charged."""
        now, trial_end = self.now(), asked.get("trial_end")
        found = shapes.subscription(self.new_id("sub"), now, customer_id, price["currency"])
        found["metadata"] = asked.get("metadata", {})
        end = trial_end or months_later(now, now, interval_months(price))
        item = shapes.subscription_item(self.new_id("si"), now, found["id"], price, now, end)
        found["items"]["data"] = [item]
        found["default_payment_method"] = self.card_of(customer_id)["method"]
        if trial_end:
            found |= {"status": "trialing", "trial_start": now, "trial_end": trial_end}
            found["billing_cycle_anchor"] = trial_end
        self.keep(found)
        amount = 0 if trial_end else price["unit_amount"]
        lines = [shapes.line(self.new_id("il"), item, price, amount, (now, end), proration=False)]
        self.bill(found, "subscription_create", lines, discounts=asked.get("discounts", []))
        self._emit("customer.subscription.created", found)
        return found

    def _roll_over(self, found: Shape) -> None:
        """Begin the next period: active at once, its invoice a draft for an hour, as at Stripe."""
        self._begin_phase(found)
        item, now = item_of(found), self.now()
        if found["status"] == "trialing":
            found["status"] = "active"
        end = months_later(found["billing_cycle_anchor"], now, interval_months(item["price"]))
        item["current_period_start"], item["current_period_end"] = now, end
        amount = item["price"]["unit_amount"]
        lines = [shapes.line(self.new_id("il"), item, item["price"], amount, (now, end), proration=False)]
        self.bill(found, "subscription_cycle", lines, discounts=found["discounts"])
        self._emit("customer.subscription.updated", found)

    def _begin_phase(self, found: Shape) -> None:
        """Take the price of the schedule's next phase, if one begins now."""
        if found["schedule"] is None:
            return
        schedule = self.get("subscription_schedule", found["schedule"])
        phase = next((phase for phase in schedule["phases"] if phase["start_date"] == self.now()), None)
        if phase is None:
            return
        item, price = item_of(found), self.get("price", phase["items"][0]["price"])
        if interval_months(price) != interval_months(item["price"]):
            found["billing_cycle_anchor"] = self.now()
        item |= {"price": price, "plan": shapes.plan(price)}
        self.release(schedule)

    def release(self, schedule: Shape) -> None:
        found = self.get("subscription", schedule["subscription"])
        schedule |= {"status": "released", "released_at": self.now(), "released_subscription": found["id"]}
        schedule |= {"subscription": None, "current_phase": None}
        found["schedule"] = None
        self._emit("subscription_schedule.released", schedule)

    def cancel(self, found: Shape) -> None:
        """End it now."""
        now = self.now()
        if found["schedule"] is not None:
            schedule = self.get("subscription_schedule", found["schedule"])
            schedule |= {"status": "canceled", "canceled_at": now}
        found |= {"status": "canceled", "ended_at": now, "canceled_at": found["canceled_at"] or now}
        found |= {"pending_update": None, "schedule": None}
        for unpaid in self.all_of("invoice"):
            if subscription_of(unpaid) == found["id"] and unpaid["status"] in ("draft", "open"):
                unpaid |= {"auto_advance": False, "next_payment_attempt": None}
                if unpaid["status"] == "draft":
                    self.void(unpaid)
        self._emit("customer.subscription.deleted", found)

    def _expire(self, found: Shape) -> None:
        """The first payment was never made."""
        found |= {"status": "incomplete_expired", "ended_at": self.now()}
        self.void(self.get("invoice", found["latest_invoice"]))
        self._emit("customer.subscription.updated", found)

    def _waits_for_voucher(self, found: Shape) -> bool:
        action = self.intent_of(self.get("invoice", found["latest_invoice"]))["next_action"]
        return action is not None and action["type"] == VOUCHER

    # --- Changing the price ------------------------------------------------------------------------------------------

    def prorated(self, found: Shape, price: Shape, at: int) -> tuple[list[Shape], tuple[int, int]]:
        """Return the lines that changing to a price takes at an instant, and the period that it gives."""
        item = item_of(found)
        start, end = item["current_period_start"], item["current_period_end"]
        is_trial = found["status"] == "trialing"
        share = 0 if is_trial else max(0, end - at) / (end - start)
        old = -round(item["price"]["unit_amount"] * share)
        lines = [shapes.line(self.new_id("il"), item, item["price"], old, (at, end), proration=True)]
        if is_trial or interval_months(price) == interval_months(item["price"]):
            new, period = round(price["unit_amount"] * share), (start, end)
            lines.append(shapes.line(self.new_id("il"), item, price, new, (at, end), proration=True))
        else:
            period = (at, months_later(at, at, interval_months(price)))
            lines.append(shapes.line(self.new_id("il"), item, price, price["unit_amount"], period, proration=False))
        return lines, period

    def change_price(self, found: Shape, price: Shape, at: int) -> None:
        """Bill the change now; it counts once it is paid."""
        lines, period = self.prorated(found, price, at)
        changed = {"price": price["id"], "period": period}
        found["pending_update"] = {
            "billing_cycle_anchor": None,
            "expires_at": self.now() + UPDATE_SECONDS,
            "subscription_items": [{"id": item_of(found)["id"], "price": price}],
            "trial_end": None,
            "trial_from_plan": None,
        }
        billed = self.bill(found, "subscription_update", lines)
        self.objects.setdefault("pending", {})[found["id"]] = {**changed, "invoice": billed["id"]}
        self.charge(billed)
        self._emit("customer.subscription.updated", found)

    def _apply_update(self, found: Shape) -> None:
        waiting = self.objects["pending"].pop(found["id"])
        item, price = item_of(found), self.get("price", waiting["price"])
        if found["status"] != "trialing" and interval_months(price) != interval_months(item["price"]):
            found["billing_cycle_anchor"] = waiting["period"][0]
            item["current_period_start"], item["current_period_end"] = waiting["period"]
        item |= {"price": price, "plan": shapes.plan(price)}
        found["pending_update"] = None

    def _drop_update(self, found: Shape) -> None:
        self.void(self.get("invoice", self.objects["pending"][found["id"]]["invoice"]))
        self._emit("customer.subscription.pending_update_expired", found)

    # --- Invoices ----------------------------------------------------------------------------------------------------

    def bill(self, found: Shape, reason: str, lines: list[Shape], discounts: list[str] | None = None) -> Shape:
        """Create an invoice, a draft."""
        billed = shapes.invoice(
            self.new_id("in"), self.now(), found, reason, len(self.objects.get("invoice", {})) + 1, self._base
        )
        billed["lines"]["data"] = lines
        subtotal = sum(line["amount"] for line in lines)
        reduction = self._reduction(subtotal, discounts or [])
        billed |= {"subtotal": subtotal, "total": subtotal - reduction}
        if reduction:
            billed["total_discount_amounts"] = [{"amount": reduction, "discount": "di_simulated"}]
        customer = self.get("customer", found["customer"])
        billed["starting_balance"] = customer["balance"]
        due = max(0, billed["total"] + customer["balance"])
        billed |= {"amount_due": due, "amount_remaining": due}
        billed |= {"customer_email": customer["email"], "customer_address": customer["address"]}
        found["latest_invoice"] = billed["id"]
        self._emit("invoice.created", self.keep(billed))
        return billed

    def _reduction(self, subtotal: int, coupons: list[str]) -> int:
        found = [self.get("coupon", coupon) for coupon in coupons]
        taken = sum(coupon["amount_off"] or round(subtotal * (coupon["percent_off"] or 0) / 100) for coupon in found)
        return min(max(subtotal, 0), int(taken))

    def charge(self, billed: Shape) -> None:
        """Finalise an invoice, if it is not yet, and try to be paid."""
        if billed["status"] == "draft":
            billed["status"] = "open"
            billed["status_transitions"]["finalized_at"] = self.now()
            self._balance(billed)
            self._emit("invoice.finalized", billed)
        billed |= {"attempted": True, "attempt_count": billed["attempt_count"] + 1, "next_payment_attempt": None}
        if billed["amount_due"] == 0:
            self.mark_paid(billed)
            return
        intent, outcome = self.intent_of(billed), self.card_of(billed["customer"])["outcome"]
        if outcome == "ok":
            self.pay(billed)
        elif outcome == "confirm":
            intent |= {"status": "requires_action", "next_action": {"type": "use_stripe_sdk", "use_stripe_sdk": {}}}
            self._emit("invoice.payment_action_required", billed)
            self._note_failure(billed)
        elif outcome == "voucher":
            self._give_voucher(intent)
        else:
            self._decline(intent)
            self._note_failure(billed)

    def _balance(self, billed: Shape) -> None:
        """What an invoice gives back is the customer's, and pays for the next ones."""
        customer = self.get("customer", billed["customer"])
        billed["starting_balance"] = customer["balance"]
        left = billed["total"] + customer["balance"]
        customer["balance"] = billed["ending_balance"] = min(0, left)
        billed |= {"amount_due": max(0, left), "amount_remaining": max(0, left)}

    def pay(self, billed: Shape) -> None:
        """Take the payment of an invoice; who pays has done what it needed."""
        intent = self.intent_of(billed)
        self.succeed(intent)
        for payment in self.all_of("invoice_payment", invoice=billed["id"]):
            payment |= {"status": "paid", "amount_paid": billed["amount_due"]}
            payment["status_transitions"]["paid_at"] = self.now()
        self.mark_paid(billed)

    def mark_paid(self, billed: Shape) -> None:
        billed |= {"status": "paid", "amount_paid": billed["amount_due"], "amount_remaining": 0}
        billed["next_payment_attempt"] = None
        billed["status_transitions"]["paid_at"] = self.now()
        found = self.get("subscription", subscription_of(billed))
        waiting = self.objects.get("pending", {}).get(found["id"])
        if waiting and waiting["invoice"] == billed["id"]:
            self._apply_update(found)
        elif found["status"] in ("incomplete", "past_due"):
            found["status"] = "active"
        self._emit("invoice.paid", billed)
        self._emit("customer.subscription.updated", found)

    def void(self, billed: Shape) -> None:
        billed |= {"status": "void", "next_payment_attempt": None, "auto_advance": False}
        billed["status_transitions"]["voided_at"] = self.now()
        if billed["ending_balance"] is not None:
            self.get("customer", billed["customer"])["balance"] += billed["starting_balance"] - billed["ending_balance"]
        found = self.get("subscription", subscription_of(billed))
        pending = self.objects.get("pending", {})
        if pending.get(found["id"], {}).get("invoice") == billed["id"]:  # and with it goes what it was to pay for
            del pending[found["id"]]
            found["pending_update"] = None
        self._emit("invoice.voided", billed)

    def _note_failure(self, billed: Shape) -> None:
        """A renewal that failed makes its subscription past due, and is tried again, three times."""
        found = self.get("subscription", subscription_of(billed))
        self._emit("invoice.payment_failed", billed)
        if billed["billing_reason"] != "subscription_cycle" or found["status"] == "canceled":
            return
        attempts = billed["attempt_count"]
        if attempts > len(RETRY_DAYS):
            self.cancel(found)
            return
        billed["next_payment_attempt"] = self.now() + RETRY_DAYS[attempts - 1] * DAY
        found["status"] = "past_due"
        self._emit("customer.subscription.updated", found)

    # --- Payments ----------------------------------------------------------------------------------------------------

    def card_of(self, customer_id: str) -> Shape:
        cards = self.objects.setdefault("card", {})
        if customer_id not in cards:
            method = shapes.payment_method(self.new_id("pm"), self.now(), customer_id, secrets.token_hex(8))
            cards[customer_id] = {"outcome": "ok", "method": self.keep(method)["id"]}
            self.get("customer", customer_id)["invoice_settings"]["default_payment_method"] = method["id"]
        return cards[customer_id]

    def intent_of(self, billed: Shape) -> Shape:
        for payment in self.all_of("invoice_payment", invoice=billed["id"]):
            return self.get("payment_intent", payment["payment"]["payment_intent"])
        intent = self.new_intent(billed["customer"], billed["amount_due"], billed["currency"])
        payment = shapes.invoice_payment(self.new_id("inpay"), self.now(), billed, intent["id"])
        billed["payments"]["data"] = [self.keep(payment)["id"]]
        return intent

    def new_intent(self, customer_id: str, amount: int, currency: str) -> Shape:
        intent = shapes.payment_intent(self.new_id("pi"), self.now(), customer_id, amount, currency)
        intent["payment_method"] = self.card_of(customer_id)["method"]
        return self.keep(intent)

    def succeed(self, intent: Shape) -> Shape:
        made = self._make_charge(intent, "")
        intent |= {"status": "succeeded", "amount_received": intent["amount"], "next_action": None}
        self._emit("payment_intent.succeeded", intent)
        self._emit("charge.succeeded", made)
        return made

    def _decline(self, intent: Shape) -> None:
        made = self._make_charge(intent, "card_declined")
        intent |= {"status": "requires_payment_method", "next_action": None}
        intent["last_payment_error"] = {"code": "card_declined", "type": "card_error"}
        self._emit("payment_intent.payment_failed", intent)
        self._emit("charge.failed", made)

    def _give_voucher(self, intent: Shape) -> None:
        voucher = {
            "expires_at": self.now() + 3 * DAY,
            "hosted_voucher_url": f"{self._base}/voucher/{intent['id']}",
            "number": "34191790010104351004791020150008291070026000",
            "pdf": None,
        }
        intent |= {"status": "requires_action", "payment_method_types": ["boleto"]}
        intent["next_action"] = {"type": VOUCHER, VOUCHER: voucher}
        self._emit("payment_intent.requires_action", intent)

    def _expire_voucher(self, intent: Shape) -> None:
        intent |= {"status": "requires_payment_method", "next_action": None}
        self._emit("payment_intent.payment_failed", intent)
        session = self._session_of(intent)
        if session is not None:
            self._emit("checkout.session.async_payment_failed", session)

    def _session_of(self, intent: Shape) -> Shape | None:
        for payment in self.all_of("invoice_payment"):
            if payment["payment"]["payment_intent"] == intent["id"]:
                return next(self.all_of("checkout.session", invoice=payment["invoice"]), None)
        return next(self.all_of("checkout.session", payment_intent=intent["id"]), None)

    def _make_charge(self, intent: Shape, failure: str) -> Shape:
        method = self.get("payment_method", intent["payment_method"])
        made = shapes.charge(self.new_id("ch"), self.now(), intent, method, self._base, failure)
        made["metadata"] = intent["metadata"]
        intent["latest_charge"] = made["id"]
        return self.keep(made)

    def refund(self, made: Shape, amount: int) -> Shape:
        given = self.keep(shapes.repayment(self.new_id("re"), self.now(), made, amount))
        made["amount_refunded"] += amount
        made["refunded"] = made["amount_refunded"] == made["amount"]
        self._emit("charge.refunded", made)
        self._emit("refund.created", given)
        return given

    def adjust_balance(self, customer: Shape, amount: int, currency: str) -> Shape:
        """Change what a customer owes; below nothing it is their credit."""
        customer["balance"] += amount
        return self.keep(shapes.balance_transaction(self.new_id("cbtxn"), self.now(), customer, amount, currency))

    def open_dispute(self, made: Shape) -> Shape:
        found = self.keep(shapes.dispute(self.new_id("du"), self.now(), made))
        made["disputed"] = True
        self._emit("charge.dispute.created", found)
        return found

    def close_dispute(self, found: Shape, status: str) -> None:
        found["status"] = status
        self._emit("charge.dispute.closed", found)

    # --- Checkout ----------------------------------------------------------------------------------------------------

    def complete_in_the_past(self, session: Shape, before: int) -> None:
        """Pay at the checkout as if that had been so long ago that the time it pays for ends `before` seconds from now.
        When that is in the past already, the card declines the renewals."""
        end, price = self._clock() + before, self.get("price", self.objects["asked"][session["id"]]["price"])
        self._at = period_start_of(end, interval_months(price))
        try:
            self.complete(session, "ok")
        finally:
            self._at = None
        if end < self._clock():
            self.card_of(session["customer"])["outcome"] = "decline"
        self.catch_up()

    def complete(self, session: Shape, outcome: str) -> None:
        """Do what a payer did on the checkout page: "ok", or "voucher" for one that is paid later."""
        asked = self.objects["asked"][session["id"]]
        customer_id = session["customer"]
        self.card_of(customer_id)["outcome"] = outcome
        price = self.get("price", asked["price"])
        session["status"] = "complete"
        if session["mode"] == "subscription":
            found = self.start(customer_id, price, asked["subscription"])
            session["subscription"], session["invoice"] = found["id"], found["latest_invoice"]
            billed = self.get("invoice", found["latest_invoice"])
            self.charge(billed)
            is_paid = billed["status"] == "paid"
        else:
            intent = self.new_intent(customer_id, session["amount_total"], session["currency"])
            intent["metadata"] = asked["payment_metadata"]
            session["payment_intent"] = intent["id"]
            is_paid = outcome == "ok"
            if is_paid:
                self.succeed(intent)
            else:
                self._give_voucher(intent)
        session["payment_status"] = "paid" if is_paid else "unpaid"
        self._emit("checkout.session.completed", session)

    def pay_voucher(self, intent: Shape) -> None:
        """A voucher was paid at last."""
        session = self._session_of(intent)
        if session is not None and session["payment_intent"] is None:
            self.pay(self.get("invoice", session["invoice"]))
        else:
            self.succeed(intent)
        if session is not None:
            session["payment_status"] = "paid"
            self._emit("checkout.session.async_payment_succeeded", session)

    def expire_session(self, session: Shape) -> None:
        session["status"], session["url"] = "expired", None
        self._emit("checkout.session.expired", session)


def item_of(subscription: Shape) -> Shape:
    item: Shape = subscription["items"]["data"][0]
    return item


def subscription_of(billed: Shape) -> str:
    return str(billed["parent"]["subscription_details"]["subscription"])


def interval_months(price: Shape) -> int:
    return 12 if price["recurring"]["interval"] == "year" else 1


def months_later(anchor: int, after: int, step: int) -> int:
    """Return the first instant after `after` that is a multiple of `step` months from the anchor, its day clamped."""
    start, count = dt.datetime.fromtimestamp(anchor, dt.UTC), step
    while True:
        months = start.month - 1 + count
        year, month = start.year + months // 12, months % 12 + 1
        day = min(start.day, calendar.monthrange(year, month)[1])
        found = int(start.replace(year=year, month=month, day=day).timestamp())
        if found > after:
            return found
        count += step


def period_start_of(end: int, months: int) -> int:
    """Return the first instant from which so many months last to `end`, or to a day that is there: no month ends on
    every day."""
    moment = dt.datetime.fromtimestamp(end, dt.UTC)
    year, month = divmod(moment.year * 12 + moment.month - 1 - months, 12)
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    start = int(moment.replace(year=year, month=month + 1, day=day).timestamp())
    while months_later(start, start, months) < end:
        start += DAY
    return start
