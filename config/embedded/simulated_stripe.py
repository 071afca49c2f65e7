"""Simulates Stripe for a newcomer and for tests: `python -m config.embedded.simulated_stripe --port 18421`.

It is not Stripe: what it knows is what this site asks. Its page at `/` renews, fails and disputes subscriptions on
demand; a test does so with the controls of `simulated_gateway.py` and with

- `POST /_control/pay` `{"session": id, "how": "ok" | "voucher"}`: what a payer does on the checkout page;
- `POST /_control/card` `{"customer": id, "outcome": …}`: what later charges meet, "ok", "decline", "confirm" (the bank
  wants a confirmation) or "voucher";
- `POST /_control/renew` `{"subscription": id, "outcome": …}`: time goes on to its next renewal, which is charged;
- `POST /_control/invoice` `{"id": …, "do": "pay" | "void" | "uncollectible"}`, `/_control/voucher` `{"intent": id}`;
- `POST /_control/refund` `{"charge": id, "amount": …}`, `/_control/dispute` `{"charge": id}`, and
  `{"dispute": id, "status": "won" | "lost"}` as an operator does in the dashboard, or a bank.
"""

import copy
import hashlib
import hmac
import html
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from config.embedded import simulated_stripe_shapes as shapes
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
from config.embedded.simulated_stripe_lives import Lives, item_of, subscription_of
from config.embedded.simulated_stripe_shapes import Shape

KINDS = {
    "products": "product",
    "prices": "price",
    "customers": "customer",
    "coupons": "coupon",
    "promotion_codes": "promotion_code",
    "webhook_endpoints": "webhook_endpoint",
    "subscriptions": "subscription",
    "subscription_schedules": "subscription_schedule",
    "invoices": "invoice",
    "invoice_payments": "invoice_payment",
    "payment_intents": "payment_intent",
    "payment_methods": "payment_method",
    "charges": "charge",
    "refunds": "refund",
    "disputes": "dispute",
    "events": "event",
    "checkout/sessions": "checkout.session",
    "billing_portal/configurations": "billing_portal.configuration",
}
WITHOUT_CENTS = ("clp", "jpy", "krw", "pyg", "vnd")
PAST = {"ends": 300, "grace": 300 - 7 * 86_400}
"""In how many seconds ends what somebody pays for who pays as if it were long ago."""
PAST_LABELS = {
    "ends": (
        "Lo pagado termina en 5 minutos",
        "What is paid ends in 5 minutes",
        "O que foi pago termina em 5 minutos",
    ),
    "grace": (
        "Lo pagado terminó hace 7 días menos 5 minutos, y la renovación se rechaza",
        "What is paid ended 7 days less 5 minutes ago, and the renewal is refused",
        "O que foi pago terminou há 7 dias menos 5 minutos, e a renovação é recusada",
    ),
}
ENDED = ("canceled", "incomplete_expired")
TEST_CARDS = {
    "pm_card_visa": "ok",
    "pm_card_chargeCustomerFail": "decline",
    "pm_card_authenticationRequired": "confirm",
}
EXPANDABLE = {
    "customer": "customer",
    "default_payment_method": "payment_method",
    "payment_method": "payment_method",
    "latest_invoice": "invoice",
    "invoice": "invoice",
    "schedule": "subscription_schedule",
    "subscription": "subscription",
    "payment_intent": "payment_intent",
    "latest_charge": "charge",
    "charge": "charge",
    "product": "product",
}


class SimulatedStripe(SimulatedGateway):
    """A simulated Stripe."""

    name = "stripe"

    def empty_state(self) -> dict[str, Any]:
        return {"objects": {}, "keys": {}}

    @property
    def lives(self) -> Lives:
        return Lives(self.state["objects"], self._emit, self.now, self.url)

    def on_clock(self) -> None:
        self.lives.catch_up()

    # --- Events ------------------------------------------------------------------------------------------------------

    def _emit(self, kind: str, about: Shape, at: int) -> None:
        lives = self.lives
        found = lives.keep(shapes.event(lives.new_id("evt"), at, kind, self._shown(about, ())))
        for endpoint in lives.all_of("webhook_endpoint", status="enabled"):
            if {"*", kind} & set(endpoint["enabled_events"]):
                self.notify(found, url=endpoint["url"])
        self.notify(found)

    def sign(self, url: str, body: bytes) -> Mapping[str, str]:
        endpoint = next(self.lives.all_of("webhook_endpoint", url=url), None)
        secret = self.notice_secret if endpoint is None else endpoint["secret"]
        at = int(time.time())
        mac = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
        return {"Stripe-Signature": f"t={at},v1={mac}"}

    # --- Requests ----------------------------------------------------------------------------------------------------

    def routes(self) -> Sequence[Route]:
        kinds = "|".join(KINDS)
        found: list[Route] = [
            ("GET", "/v1/account", self._api(lambda _asked: shapes.account())),
            ("GET", f"/v1/({kinds})", self._api(self._list)),
            ("GET", f"/v1/({kinds})/([^/]+)", self._api(self._retrieve)),
            ("GET", "/v1/customers/([^/]+)/balance_transactions", self._api(self._list_balance_transactions)),
            ("DELETE", "/v1/subscriptions/([^/]+)", self._api(self._cancel)),
            ("DELETE", "/v1/(customers|webhook_endpoints)/([^/]+)", self._api(self._delete)),
        ]
        posts: dict[str, Callable[..., Shape]] = {
            "products": self._create_product,
            "prices": self._create_price,
            "customers": self._create_customer,
            "customers/([^/]+)/balance_transactions": self._create_balance_transaction,
            "coupons": self._create_coupon,
            "promotion_codes": self._create_promotion_code,
            "webhook_endpoints": self._create_webhook_endpoint,
            "checkout/sessions": self._create_session,
            "checkout/sessions/([^/]+)/expire": self._expire_session,
            "billing_portal/sessions": self._create_portal_session,
            "billing_portal/configurations": self._create_portal_configuration,
            "subscription_schedules": self._create_schedule,
            "subscription_schedules/([^/]+)": self._update_schedule,
            "subscription_schedules/([^/]+)/release": self._release_schedule,
            "subscriptions": self._create_subscription,
            "subscriptions/([^/]+)": self._update_subscription,
            "payment_methods/([^/]+)/attach": self._attach,
            "invoices/create_preview": self._preview,
            "invoices/([^/]+)/void": self._void_invoice,
            "refunds": self._refund,
            f"({kinds})/([^/]+)": self._update,
        }
        found += [("POST", f"/v1/{path}", self._api(act)) for path, act in posts.items()]
        return [*found, *self._pages(), *self._more_controls()]

    def _api(self, act: Callable[..., Shape]) -> Callable[..., Reply]:
        """Return what answers an API request: key, version, idempotency and `expand` are the same for all."""

        def answer(request: Request, *parts: str) -> Reply:
            kind = request.headers.get("authorization", "").removeprefix("Bearer ")[:8]
            if kind not in ("sk_test_", "rk_test_"):
                raise refused("Invalid API Key provided.", status=401)
            if request.headers.get("stripe-version") != shapes.API_VERSION:
                raise refused(f"Only {shapes.API_VERSION} is simulated.")
            text = request.body.decode() if request.method != "GET" else ""
            asked = nested([*request.query.items(), *parse_qsl(text, keep_blank_values=True)])
            expand = asked.pop("expand", [])
            key = request.headers.get("idempotency-key", "")
            if request.method != "POST" or not key:
                return Reply(self._shown(act(asked, *parts), expand))
            return Reply(self._once(key, f"{request.path} {text}", lambda: self._shown(act(asked, *parts), expand)))

        return answer

    def _once(self, key: str, asked: str, act: Callable[[], Shape]) -> Shape:
        known = self.state["keys"].get(key)
        if known is None:
            known = self.state["keys"][key] = {"asked": asked, "answer": act()}
        elif known["asked"] != asked:
            message = (
                "Keys for idempotent requests can only be used with the same parameters they were first used with."
            )
            raise refused(message, kind="idempotency_error")
        answer: Shape = known["answer"]
        return answer

    def _shown(self, found: Shape, expand: Iterable[str]) -> Shape:
        """Return a copy as it is sent: with what was asked to be expanded, without what is never sent."""
        shown: Shape = copy.deepcopy(found)
        paths = [path.split(".") for path in expand]
        self._expand(shown, paths)
        return shown

    def _expand(self, shown: Any, paths: list[list[str]]) -> None:
        if isinstance(shown, list):
            for one in shown:
                self._expand(one, paths)
            return
        if shown.get("object") == "list":
            inner = [path[1:] for path in paths if path[0] == "data"] + [path for path in paths if path[0] != "data"]
            self._expand(shown["data"], inner)
            return
        names = {path[0] for path in paths}
        if shown.get("object") == "invoice":
            payments = [self._object("invoice_payment", one) for one in shown.pop("payments")["data"]]
            if "payments" in names:
                shown["payments"] = shapes.listed("/v1/invoice_payments", payments)
        if shown.get("object") == "billing_portal.session":
            return
        for name in names & shown.keys():
            if isinstance(shown[name], str):
                shown[name] = copy.deepcopy(self.lives.get(EXPANDABLE[name], shown[name]))
            rest = [path[1:] for path in paths if path[0] == name and len(path) > 1]
            if shown[name] is not None:
                self._expand(shown[name], rest)

    def _object(self, kind: str, object_id: str) -> Shape:
        """Return an object that can be worked with; a deleted one is refused like one that never was."""
        found: Shape | None = self.state["objects"].get(kind, {}).get(object_id)
        if found is None or found.get("deleted"):
            raise refused(f"No such {kind}: '{object_id}'", code="resource_missing", status=404)
        return found

    # --- Reading -----------------------------------------------------------------------------------------------------

    def _retrieve(self, _asked: Shape, path: str, object_id: str) -> Shape:
        found = self.state["objects"].get(KINDS[path], {}).get(object_id) or self._object(KINDS[path], object_id)
        return {name: value for name, value in found.items() if name != "secret"}

    def _list(self, asked: Shape, path: str) -> Shape:
        return self._page(KINDS[path], path, asked)

    def _page(self, kind: str, path: str, asked: Shape) -> Shape:
        limit = int(asked.pop("limit", 10))
        if not 1 <= limit <= 100:
            raise refused("limit must be between 1 and 100")
        after, before = asked.pop("starting_after", None), asked.pop("ending_before", None)
        if kind == "subscription" and "status" not in asked:
            rows = [found for found in self.lives.all_of(kind) if found["status"] not in ENDED]
        else:
            rows = [found for found in self.lives.all_of(kind) if "deleted" not in found]
        rows = [found for found in rows if matches(found, asked)]
        ids = [found["id"] for found in rows]
        if before is not None:
            rows = rows[: ids.index(self._object(kind, before)["id"])][-limit:]
            return shapes.listed(f"/v1/{path}", rows)
        start = 0 if after is None else ids.index(self._object(kind, after)["id"]) + 1
        return shapes.listed(f"/v1/{path}", rows[start : start + limit], has_more=len(rows) > start + limit)

    # --- Simple things -----------------------------------------------------------------------------------------------

    def _create_product(self, asked: Shape) -> Shape:
        lives = self.lives
        made = shapes.product(asked.pop("id", None) or lives.new_id("prod"), self.now(), asked.pop("name"))
        return lives.keep(made | changes(made, asked))

    def _create_price(self, asked: Shape) -> Shape:
        lives, amount = self.lives, int(asked.pop("unit_amount"))
        product = self._object("product", asked.pop("product"))
        interval = asked.pop("recurring", {}).get("interval", "")
        if asked.pop("transfer_lookup_key", None) == "true":
            for other in lives.all_of("price", lookup_key=asked.get("lookup_key")):
                other["lookup_key"] = None
        elif asked.get("lookup_key") and next(lives.all_of("price", lookup_key=asked["lookup_key"]), None):
            raise refused("A price already uses that lookup key.", code="resource_already_exists")
        made = shapes.price(lives.new_id("price"), self.now(), product["id"], asked.pop("currency"), amount, interval)
        return lives.keep(made | changes(made, asked))

    def _create_customer(self, asked: Shape) -> Shape:
        made = shapes.customer(self.lives.new_id("cus"), self.now())
        return self.lives.keep(made | changes(made, asked))

    def _create_coupon(self, asked: Shape) -> Shape:
        made = shapes.coupon(asked.pop("id", None) or self.lives.new_id("co"), self.now())
        return self.lives.keep(made | changes(made, asked))

    def _create_promotion_code(self, asked: Shape) -> Shape:
        coupon = self._object("coupon", asked["promotion"]["coupon"])
        made = shapes.promotion_code(self.lives.new_id("promo"), self.now(), asked["code"], coupon["id"])
        return self.lives.keep(made)

    def _create_webhook_endpoint(self, asked: Shape) -> Shape:
        secret = self.lives.new_id("whsec")
        made = shapes.webhook_endpoint(
            self.lives.new_id("we"), self.now(), asked.pop("url"), asked["enabled_events"], secret
        )
        return self.lives.keep(made | changes(made, asked))

    def _update(self, asked: Shape, path: str, object_id: str) -> Shape:
        found = self._object(KINDS[path], object_id)
        found |= changes(found, asked)
        if found["object"] == "customer":
            self._emit("customer.updated", found, self.now())
        return found

    def _delete(self, _asked: Shape, path: str, object_id: str) -> Shape:
        found = self._object(KINDS[path], object_id)
        if found["object"] == "customer":
            for subscription in self.lives.all_of("subscription", customer=object_id):
                if subscription["status"] not in ENDED:
                    self.lives.cancel(subscription)
        return self.lives.keep({"id": object_id, "object": found["object"], "deleted": True})

    # --- Checkout and portal -----------------------------------------------------------------------------------------

    def _create_session(self, asked: Shape) -> Shape:
        lives, line = self.lives, asked["line_items"][0]
        self._object("customer", asked["customer"])
        price = self._object("price", line["price"])
        if not price["active"]:
            raise refused(f"The price specified is inactive: {price['id']}")
        if (asked["mode"] == "subscription") != (price["type"] == "recurring"):
            raise refused("You specified a price that does not fit the mode.")
        details = asked.get("subscription_data", {})
        trial_end = int(details["trial_end"]) if "trial_end" in details else None
        if "trial_period_days" in details:
            trial_end = self.now() + int(details["trial_period_days"]) * 86_400
        if trial_end is not None and trial_end < self.now() + 86_400:
            raise refused("The trial_end must be at least two days in the future.")
        coupons = [self._coupon_of(discount) for discount in asked.get("discounts", [])]
        made = shapes.checkout_session(lives.new_id("cs_test"), self.now(), asked["mode"], self.url)
        made |= {
            name: asked[name] for name in ("cancel_url", "client_reference_id", "customer", "locale", "success_url")
        }
        made |= {"metadata": asked.get("metadata", {}), "currency": price["currency"]}
        made |= {"amount_subtotal": price["unit_amount"], "amount_total": 0 if trial_end else price["unit_amount"]}
        self.state["objects"].setdefault("asked", {})[made["id"]] = {
            "price": price["id"],
            "payment_metadata": asked.get("payment_intent_data", {}).get("metadata", {}),
            "subscription": {
                "metadata": details.get("metadata", {}),
                "trial_end": trial_end,
                "discounts": coupons,
            },
        }
        return lives.keep(made)

    def _coupon_of(self, discount: Shape) -> str:
        if "promotion_code" in discount:
            return str(self._object("promotion_code", discount["promotion_code"])["promotion"]["coupon"])
        return str(self._object("coupon", discount["coupon"])["id"])

    def _expire_session(self, _asked: Shape, object_id: str) -> Shape:
        found = self._object("checkout.session", object_id)
        if found["status"] != "open":
            raise refused('Only Checkout Sessions with a status in ["open"] can be expired.')
        self.lives.expire_session(found)
        return found

    def _create_portal_session(self, asked: Shape) -> Shape:
        self._object("customer", asked["customer"])
        configuration = self._object("billing_portal.configuration", asked["configuration"])
        made = shapes.portal_session(
            self.lives.new_id("bps"), self.now(), asked["customer"], configuration["id"], self.url
        )
        return self.lives.keep(made | {"return_url": asked.get("return_url")})

    def _create_portal_configuration(self, asked: Shape) -> Shape:
        made = shapes.portal_configuration(self.lives.new_id("bpc"), self.now(), asked.pop("features"))
        return self.lives.keep(made | changes(made, asked))

    # --- Subscriptions -----------------------------------------------------------------------------------------------

    def _create_subscription(self, asked: Shape) -> Shape:
        lives, price = self.lives, self._object("price", asked["items"][0]["price"])
        self._object("customer", asked["customer"])
        found = lives.start(asked["customer"], price, {"metadata": asked.get("metadata", {})})
        lives.charge(lives.get("invoice", found["latest_invoice"]))
        return found

    def _attach(self, asked: Shape, test_card: str) -> Shape:
        """Take one of the cards that Stripe has for tests."""
        if test_card not in TEST_CARDS:
            raise refused(f"No such PaymentMethod: '{test_card}'", code="resource_missing", status=404)
        self._object("customer", asked["customer"])
        card = self.lives.card_of(asked["customer"])
        card["outcome"] = TEST_CARDS[test_card]
        return self._object("payment_method", card["method"])

    def _update_subscription(self, asked: Shape, object_id: str) -> Shape:
        lives, found = self.lives, self._object("subscription", object_id)
        if found["status"] in ENDED:
            raise refused("A canceled subscription can only update its cancellation_details and metadata.")
        if found["schedule"] and ("cancel_at_period_end" in asked or "items" in asked):
            raise refused("The subscription is managed by the subscription schedule.")
        if "items" in asked:
            price = self._object("price", asked["items"][0]["price"])
            if price["currency"] != found["currency"]:
                raise refused("The price specified has another currency.")
            lives.change_price(found, price, int(asked.get("proration_date", self.now())))
        if "cancel_at_period_end" in asked:
            ends = asked["cancel_at_period_end"] == "true"
            found |= {"cancel_at_period_end": ends, "canceled_at": self.now() if ends else None}
            found["cancel_at"] = item_of(found)["current_period_end"] if ends else None
        found |= changes(found, {name: asked[name] for name in ("metadata", "default_payment_method") if name in asked})
        self._emit("customer.subscription.updated", found, self.now())
        return found

    def _cancel(self, _asked: Shape, object_id: str) -> Shape:
        found = self._object("subscription", object_id)
        if found["status"] in ENDED:
            raise refused(f"No such subscription: '{object_id}'", code="resource_missing", status=404)
        self.lives.cancel(found)
        return found

    def _create_schedule(self, asked: Shape) -> Shape:
        found = self._object("subscription", asked["from_subscription"])
        if found["schedule"]:
            raise refused("The subscription is already attached to a schedule.")
        item = item_of(found)
        phase = phase_of(item["price"]["id"], item["current_period_start"], item["current_period_end"])
        made = shapes.subscription_schedule(self.lives.new_id("sub_sched"), self.now(), found, [phase])
        found["schedule"] = made["id"]
        self._emit("subscription_schedule.created", made, self.now())
        return self.lives.keep(made)

    def _update_schedule(self, asked: Shape, object_id: str) -> Shape:
        found = self._object("subscription_schedule", object_id)
        start, phases = 0, []
        for phase in asked["phases"]:
            start = int(phase.get("start_date", start))
            end = int(phase.get("end_date", start + 31 * 86_400))
            phases.append(phase_of(self._object("price", phase["items"][0]["price"])["id"], start, end))
            start = end
        found |= {"phases": phases, "end_behavior": asked.get("end_behavior", "release")}
        self._emit("subscription_schedule.updated", found, self.now())
        return found

    def _release_schedule(self, _asked: Shape, object_id: str) -> Shape:
        found = self._object("subscription_schedule", object_id)
        if found["status"] not in ("active", "not_started"):
            raise refused("The schedule is not active.")
        self.lives.release(found)
        return found

    # --- Invoices and money ------------------------------------------------------------------------------------------

    def _preview(self, asked: Shape) -> Shape:
        found, details = self._object("subscription", asked["subscription"]), asked["subscription_details"]
        price = self._object("price", details["items"][0]["price"])
        lines, _period = self.lives.prorated(found, price, int(details["proration_date"]))
        made = shapes.invoice(self.lives.new_id("upcoming_in"), self.now(), found, "subscription_update", 0, self.url)
        total = sum(line["amount"] for line in lines)
        made["lines"]["data"] = lines
        due = max(0, total + self._object("customer", found["customer"])["balance"])
        return made | {"subtotal": total, "total": total, "amount_due": due, "number": None}

    def _void_invoice(self, _asked: Shape, object_id: str) -> Shape:
        found = self._object("invoice", object_id)
        if found["status"] not in ("open", "uncollectible"):
            raise refused("You can only void open or uncollectible invoices.")
        self.lives.void(found)
        return found

    def _refund(self, asked: Shape) -> Shape:
        intent = self._object("payment_intent", asked["payment_intent"])
        if intent["status"] != "succeeded":
            raise refused("This PaymentIntent does not have a successful charge to refund.")
        charge = self._object("charge", intent["latest_charge"])
        amount = int(asked.get("amount", charge["amount"] - charge["amount_refunded"]))
        if charge["refunded"]:
            raise refused("The charge has already been refunded.", code="charge_already_refunded")
        if charge["disputed"]:
            raise refused("The charge is disputed.", code="charge_disputed")
        if amount > charge["amount"] - charge["amount_refunded"]:
            raise refused("Refund amount is greater than unrefunded amount on charge.")
        made = self.lives.refund(charge, amount)
        made |= changes(made, {"metadata": asked.get("metadata", {})})
        return made

    def _list_balance_transactions(self, asked: Shape, customer: str) -> Shape:
        path = f"customers/{customer}/balance_transactions"
        return self._page("customer_balance_transaction", path, {**asked, "customer": customer})

    def _create_balance_transaction(self, asked: Shape, customer: str) -> Shape:
        made = self.lives.adjust_balance(self._object("customer", customer), int(asked["amount"]), asked["currency"])
        made |= changes(made, {"metadata": asked.get("metadata", {}), "description": asked.get("description")})
        return made

    # --- Controls ----------------------------------------------------------------------------------------------------

    def _more_controls(self) -> Sequence[Route]:
        controls = {
            "pay": self._control_payment,
            "card": self._control_card,
            "renew": self._control_renewal,
            "invoice": self._control_invoice,
            "voucher": self._control_voucher,
            "refund": self._control_refund,
            "dispute": self._control_dispute,
        }
        return [("POST", f"/_control/{name}", answer_json(act)) for name, act in controls.items()]

    def _control_payment(self, asked: Shape) -> Shape:
        session = self._object("checkout.session", asked["session"])
        if session["status"] != "open":
            raise refused("The checkout is not open any more.")
        self.lives.complete(session, asked.get("how", "ok"))
        return self._shown(session, ())

    def _control_card(self, asked: Shape) -> Shape:
        self.lives.card_of(asked["customer"])["outcome"] = asked["outcome"]
        return {}

    def _control_renewal(self, asked: Shape) -> Shape:
        found = self._object("subscription", asked["subscription"])
        if "outcome" in asked:
            self.lives.card_of(found["customer"])["outcome"] = asked["outcome"]
        if found["status"] not in ENDED:
            self.set_clock(self.lives.next_renewal(found), stopped=self.state["clock"]["stopped"])
        return self._shown(found, ())

    def _control_invoice(self, asked: Shape) -> Shape:
        found = self._object("invoice", asked["id"])
        if asked["do"] == "pay" and found["status"] in ("open", "uncollectible"):
            self.lives.pay(found)
        elif asked["do"] == "void":
            self._void_invoice({}, found["id"])
        elif asked["do"] == "uncollectible":
            found |= {"status": "uncollectible", "next_payment_attempt": None}
            self._emit("invoice.marked_uncollectible", found, self.now())
        return self._shown(found, ())

    def _control_voucher(self, asked: Shape) -> Shape:
        found = self._object("payment_intent", asked["intent"])
        if found["status"] == "requires_action":
            self.lives.pay_voucher(found)
        return self._shown(found, ())

    def _control_refund(self, asked: Shape) -> Shape:
        charge = self._object("charge", asked["charge"])
        return self.lives.refund(charge, int(asked.get("amount", charge["amount"] - charge["amount_refunded"])))

    def _control_dispute(self, asked: Shape) -> Shape:
        if "dispute" not in asked:
            return self.lives.open_dispute(self._object("charge", asked["charge"]))
        found = self._object("dispute", asked["dispute"])
        self.lives.close_dispute(found, asked["status"])
        return found

    # --- Pages -------------------------------------------------------------------------------------------------------

    def _pages(self) -> Sequence[Route]:
        return [
            ("GET", "/", self._panel),
            ("POST", "/", self._use_panel),
            ("GET", "/checkout/([^/]+)", self._checkout),
            ("POST", "/checkout/([^/]+)", self._use_checkout),
            ("GET", "/portal/([^/]+)", self._portal),
            ("POST", "/portal/([^/]+)", self._use_portal),
            ("GET", "/invoice/([^/]+)", self._invoice),
            ("POST", "/invoice/([^/]+)", self._use_invoice),
            ("GET", "/voucher/([^/]+)", self._voucher),
            ("POST", "/voucher/([^/]+)", self._use_voucher),
            ("GET", "/receipt/([^/]+)", self._receipt),
        ]

    def _checkout(self, _request: Request, object_id: str, said: str = "") -> Reply:
        session = self._object("checkout.session", object_id)
        if session["status"] != "open":
            over = "Este pago ya terminó. · This checkout is over. · Este pagamento terminou."
            return page("Stripe", paragraph(over), self.way_back())
        here = f"/checkout/{object_id}"
        price = self._object("price", self.state["objects"]["asked"][object_id]["price"])
        product = self._object("product", price["product"])
        return page(
            "Stripe",
            paragraph(f"{product['name']}: {amount_of(session['amount_total'], session['currency'])}"),
            f'<p role="alert">{html.escape(said)}</p>' if said else "",
            button(here, "do", "ok", "Pagar · Pay · Pagar"),
            button(
                here,
                "do",
                "decline",
                "Pagar con una tarjeta rechazada · Pay with a declined card · Pagar com um cartão recusado",
            ),
            button(
                here,
                "do",
                "bank",
                "Confirmar con el banco (3DS) · Pay with the bank's confirmation · Confirmar com o banco",
            ),
            button(here, "do", "voucher", "Pagar con un cupón de pago · Pay by voucher · Pagar com boleto"),
            button(here, "do", "leave", "Volver sin pagar · Leave without paying · Voltar sem pagar"),
            *self._past_buttons(here) if session["mode"] == "subscription" and session["amount_total"] else (),
        )

    def _past_buttons(self, here: str) -> Sequence[str]:
        """Return the ways to see within minutes what takes a month: the purchase is told as one of the past."""
        return (
            "<h2>Pagar como hace tiempo · Pay as if it were long ago · Pagar como há algum tempo</h2>",
            *(button(here, "do", value, " · ".join(labels)) for value, labels in PAST_LABELS.items()),
        )

    def _use_checkout(self, request: Request, object_id: str) -> Reply:
        session, done = self._object("checkout.session", object_id), dict(request.form()).get("do", "")
        here = f"/checkout/{object_id}"
        if done == "leave" or session["status"] != "open":
            return redirect(session["cancel_url"])
        if done in PAST and session["mode"] == "subscription":
            self.lives.complete_in_the_past(session, PAST[done])
            return redirect(session["success_url"])
        if done in ("ok", "voucher"):
            self.lives.complete(session, done)
            return redirect(session["success_url"])
        if done == "bank":
            return page(
                "Banco · Bank · Banco",
                button(here, "do", "ok", "Confirmar · Confirm · Confirmar"),
                button(here, "do", "decline", "Rechazar · Refuse · Recusar"),
            )
        return self._checkout(request, object_id, "Pago rechazado. · The card was declined. · Cartão recusado.")

    def _portal(self, _request: Request, object_id: str) -> Reply:
        session, here = self._object("billing_portal.session", object_id), f"/portal/{object_id}"
        outcome = self.lives.card_of(session["customer"])["outcome"]
        return page(
            "Stripe",
            paragraph(f"Tarjeta · Card · Cartão: {outcome}"),
            button(here, "outcome", "ok", "Una tarjeta que paga · A card that pays · Um cartão que paga"),
            button(here, "outcome", "decline", "Una tarjeta rechazada · A card that is declined · Um cartão recusado"),
            button(here, "outcome", "confirm", "Una tarjeta con 3DS · A card with 3DS · Um cartão com 3DS"),
            link(session["return_url"] or "/", "Volver · Back · Voltar"),
        )

    def _use_portal(self, request: Request, object_id: str) -> Reply:
        session = self._object("billing_portal.session", object_id)
        outcome = dict(request.form()).get("outcome", "ok")
        self.lives.card_of(session["customer"])["outcome"] = outcome
        for unpaid in self.lives.all_of("invoice", customer=session["customer"], status="open"):
            if outcome == "ok":
                self.lives.pay(unpaid)
        return self._portal(request, object_id)

    def _invoice(self, _request: Request, object_id: str) -> Reply:
        found, here = self._object("invoice", object_id), f"/invoice/{object_id}"
        parts = [paragraph(f"{found['number']}: {amount_of(found['total'], found['currency'])}, {found['status']}")]
        if found["status"] == "open":
            parts.append(button(here, "do", "pay", "Confirmar y pagar · Confirm and pay · Confirmar e pagar"))
        return page("Stripe", *parts, self.way_back())

    def _use_invoice(self, request: Request, object_id: str) -> Reply:
        self._control_invoice({"id": object_id, "do": "pay"})
        return self._invoice(request, object_id)

    def _voucher(self, _request: Request, object_id: str) -> Reply:
        found = self._object("payment_intent", object_id)
        parts = [paragraph(f"{amount_of(found['amount'], found['currency'])}, {found['status']}")]
        if found["status"] == "requires_action":
            parts.append(button(f"/voucher/{object_id}", "do", "pay", "Pagar · Pay · Pagar"))
        return page("Boleto", *parts, self.way_back())

    def _use_voucher(self, request: Request, object_id: str) -> Reply:
        self._control_voucher({"intent": object_id})
        return self._voucher(request, object_id)

    def _receipt(self, _request: Request, object_id: str) -> Reply:
        found = self._object("charge", object_id)
        text = f"{amount_of(found['amount'], found['currency'])}, {found['status']}"
        return page("Stripe", paragraph(text), self.way_back())

    def _panel(self, _request: Request) -> Reply:
        parts = [in_each_language(*AHEAD_OF_TIME)]
        for found in self.lives.all_of("subscription"):
            email = self._object("customer", found["customer"])["email"]
            price = item_of(found)["price"]
            name = self._object("product", price["product"])["name"]
            amount = amount_of(price["unit_amount"], price["currency"])
            parts.append(f"<h2>{html.escape(f'{email}: {name}, {amount}')}</h2>")
            parts.append(paragraph(f"{found['id']}: {found['status']}"))
            if found["status"] in ENDED:
                continue
            parts.append(button("/", "ok", found["id"], "Renovar ahora · Renew now · Renovar agora"))
            parts.append(button("/", "decline", found["id"], "Renovar y fallar · Renew and fail · Renovar e falhar"))
            parts.append(button("/", "confirm", found["id"], "Renovar con 3DS · Renew with 3DS · Renovar com 3DS"))
            parts.append(button("/", "dispute", found["id"], "Disputa · Dispute · Disputa"))
        parts.append("<h2>Cupones · Coupons · Cupons</h2>")
        for coupon in self.lives.all_of("coupon"):
            worth = f"{coupon['percent_off']:g} %" if coupon["percent_off"] else str(coupon["amount_off"])
            parts.append(paragraph(f"{coupon['id']}: {worth}"))
        parts.append(button("/", "coupon", "25", "Crear uno del 25 % · Make one of 25 % · Criar um de 25 %"))
        return page("Stripe", *parts, self.way_back())

    def _use_panel(self, request: Request) -> Reply:
        for done, object_id in request.form():
            if done == "coupon":
                self._create_coupon({"percent_off": object_id, "duration": "once"})
                continue
            found = self._object("subscription", object_id)
            if done == "dispute":
                charge = self._last_charge(object_id)
                if charge is not None:
                    self.lives.open_dispute(charge)
            elif found["status"] not in ENDED:
                self.lives.card_of(found["customer"])["outcome"] = done
                self.lives.run_ahead(found)
        return redirect("/")

    def _last_charge(self, subscription_id: str) -> Shape | None:
        for billed in self.lives.all_of("invoice", status="paid"):
            if subscription_of(billed) == subscription_id and billed["amount_paid"]:
                return self._object("charge", self.lives.intent_of(billed)["latest_charge"])
        return None


# --- What requests are made of -------------------------------------------------------------------------------------


def refused(message: str, *, kind: str = "invalid_request_error", code: str = "", status: int = 400) -> Refusal:
    return Refusal({"error": {"type": kind, "message": message, **({"code": code} if code else {})}}, status)


def answer_json(act: Callable[[Shape], Shape]) -> Callable[[Request], Reply]:
    return lambda request: Reply(act(request.json()))


def nested(pairs: Iterable[tuple[str, str]]) -> Shape:
    """Return what bracketed names mean: `items[0][price]=x` is `{"items": [{"price": "x"}]}`."""
    found: Shape = {}
    for name, value in pairs:
        first, *rest = name.replace("]", "").split("[")
        at, keys = found, [first, *rest]
        for key in keys[:-1]:
            at = at.setdefault(key, {})
        at[keys[-1] or str(len(at))] = value
    listed: Shape = as_lists(found)
    return listed


def as_lists(found: Any) -> Any:
    if not isinstance(found, dict):
        return found
    if found and all(key.isdigit() for key in found):
        return [as_lists(found[key]) for key in sorted(found, key=int)]
    return {key: as_lists(value) for key, value in found.items()}


def changes(found: Shape, asked: Shape) -> Shape:
    """Return the fields that a request changes, with the types they have; metadata is merged."""
    changed: Shape = {}
    for name, value in asked.items():
        if name == "metadata":
            merged = {**found["metadata"], **(value or {})}
            changed[name] = {key: kept for key, kept in merged.items() if kept != ""}
        elif value in ("true", "false"):
            changed[name] = value == "true"
        elif name in ("amount_off", "percent_off", "duration_in_months"):
            changed[name] = int(value)
        elif name in found:
            changed[name] = value or None
    return changed


def matches(found: Shape, asked: Shape) -> bool:
    """Return whether a list that is filtered like this has the object."""
    for name, wanted in asked.items():
        if name == "created":
            if "gte" in wanted and found["created"] < int(wanted["gte"]):
                return False
        elif name == "lookup_keys":
            if found["lookup_key"] not in wanted:
                return False
        elif name == "types":
            if found["type"] not in wanted:
                return False
        elif name == "payment":
            if found["payment"]["payment_intent"] != wanted["payment_intent"]:
                return False
        elif (name, wanted) == ("status", "all"):
            continue
        elif name == "subscription" and found["object"] == "invoice":
            if subscription_of(found) != wanted:
                return False
        elif json.dumps(found.get(name)).strip('"') != wanted:
            return False
    return True


def phase_of(price_id: str, start: int, end: int) -> Shape:
    items = [{"price": price_id, "plan": price_id, "quantity": 1, "discounts": [], "metadata": {}, "tax_rates": []}]
    return {
        "add_invoice_items": [],
        "currency": "usd",
        "discounts": [],
        "end_date": end,
        "items": items,
        "metadata": {},
        "proration_behavior": "none",
        "start_date": start,
    }


def paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def link(url: str, label: str) -> str:
    return f'<p><a href="{html.escape(url, quote=True)}">{html.escape(label)}</a></p>'


def amount_of(minor: int, currency: str) -> str:
    amount = str(minor) if currency.lower() in WITHOUT_CENTS else f"{minor / 100:.2f}"
    return f"{amount} {currency.upper()}"


if __name__ == "__main__":
    run_gateway(SimulatedStripe)
