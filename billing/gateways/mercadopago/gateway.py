"""Mercado Pago: subscriptions without a plan of its own, and single payments through Checkout Pro.

What it has not: an end of a subscription at the end of its period (it is cancelled at once, and what was paid holds),
a payment for the rest of a period (a change of price counts from the next payment), customers (payers have accounts
there, which are theirs).
"""

import datetime as dt
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext_noop

from billing.gateways.base import (
    LISTING_SECONDS,
    SECONDS,
    ChangePreview,
    Checkout,
    GatewayRefused,
    GatewayUnavailable,
    Kind,
    Notification,
    Order,
    PaymentMode,
    Reference,
    Snapshot,
    fetch_each,
    readable,
)
from billing.gateways.mercadopago import notifications
from billing.gateways.mercadopago.agreements import (
    COUNTRIES,
    GATEWAY,
    NEVER,
    PREFIX,
    Agreement,
    agree,
    read_agreement,
    write_amount,
)
from billing.gateways.mercadopago.client import API, MercadoPagoClient
from billing.gateways.mercadopago.snapshots import (
    Json,
    Seller,
    is_purchase,
    preapproval_of,
    read_purchase,
    read_subscription,
    read_time,
)
from billing.models import Price
from core.alerts import alert

CHECKOUT_TIME = dt.timedelta(days=1)
"""How long a single payment may be begun."""
VOUCHER_TIME = dt.timedelta(days=3)
"""How long a voucher may be paid."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PriceTerms:
    """What a price of ours is: Mercado Pago does not know it. `months`: how many a payment pays for."""

    amount_minor: int
    currency: str
    months: int


@dataclass(frozen=True, slots=True)
class Account:
    """Whom an access token belongs to, as Mercado Pago says."""

    id: str
    site: str
    is_test: bool


class MercadoPago:
    """See `billing.gateways.base.Gateway`. References of subscriptions are Mercado Pago's ids, those of what is bought
    once are our own external references; a payment's is its id there.
    """

    name = GATEWAY
    title = "Mercado Pago"
    kinds: tuple[Kind, ...] = ("subscription", "prepaid", "pack")
    wants_payer_email = True
    has_prorations = False
    changes_interval = False

    def __init__(
        self,
        access_token: str,
        webhook_secrets: Iterable[str],
        country: str,
        mode: str,
        *,
        find_price: Callable[[str], PriceTerms | None],
        base_url: str = API,
    ) -> None:
        self._access_token, self._base_url = access_token, base_url
        self._webhook_secrets = tuple(webhook_secrets)
        self._country = COUNTRIES.get(country)
        self._country_code, self.mode = country, mode
        self._find_price = find_price

    @property
    def payment_mode(self) -> PaymentMode:
        if self._base_url != API:
            return "simulated"
        return "live" if self.mode == "live" else "test"

    # --- Buying ------------------------------------------------------------------------------------------------------

    def start_checkout(self, order: Order) -> Checkout:
        """Return where the order is paid. A subscription that its payer has left pending is cancelled first."""
        client = self._client()
        if self.find_mistakes():  # a test would take real money, or the reverse
            raise GatewayRefused("settings_contradict_account")
        try:
            agreement = agree(order, timezone.now())
        except ValueError as error:
            raise GatewayRefused("reference_too_long") from error
        if order.currency != self._seller(client).currency:
            raise GatewayRefused("currency_of_another_country")
        if order.kind == "subscription":
            return self._start_subscription(client, order, agreement)
        return self._start_purchase(client, order, agreement)

    def expire_checkout(self, reference: Reference) -> None:
        """Let it be paid no more, with the vouchers it has. Raises GatewayRefused where it was paid already."""
        client = self._client()
        if reference.type == "subscription":
            self._cancel_pending(client, client.ask(client.sdk.preapproval().get, reference.id))
        else:
            self._expire_purchase(client, reference.id)

    # --- Looking -----------------------------------------------------------------------------------------------------

    def fetch(self, reference: Reference) -> Snapshot | None:
        client = self._client()
        observed_at = timezone.now()
        with readable():
            return self._fetch(client, reference, observed_at)

    def list_recent(self, since: dt.datetime) -> Iterator[Snapshot]:
        return fetch_each(self, list(self._list_references(since)))  # all of them first, while the list can be read

    # --- Changing ----------------------------------------------------------------------------------------------------

    def preview_change(self, reference: str, price_reference: str) -> ChangePreview:
        """Return what changes: nothing now, and the next payment is another."""
        client = self._client()
        preapproval, agreement = self._subscription(client, reference)
        price = self._price_to_change_to(agreement, price_reference)
        with readable():
            next_payment_at = read_time(preapproval.get("next_payment_date")) or timezone.now()
        return ChangePreview(0, price.currency, timezone.now(), price.amount_minor, next_payment_at)

    def change_price(self, reference: str, price_reference: str, preview: ChangePreview, *, key: str) -> None:
        """Change what is paid from the next payment on: Mercado Pago has nothing else."""
        self.change_price_at_period_end(reference, price_reference, key=key)

    def change_price_at_period_end(self, reference: str, price_reference: str, *, key: str) -> None:
        client = self._client()
        preapproval, agreement = self._subscription(client, reference)
        price = self._price_to_change_to(agreement, price_reference)
        if agreement.price_reference == price_reference:
            return
        with readable():
            snapshot = self._read_subscription(client, preapproval, agreement, timezone.now())
        if snapshot.status == "past_due":  # what is still tried to be paid is of the old price
            raise GatewayRefused("payment_is_due")
        changed = agreement.at_price(price_reference, price.amount_minor, snapshot.anchor)
        terms = {
            "external_reference": str(changed),
            "auto_recurring": {
                "transaction_amount": write_amount(price.amount_minor, price.currency),
                "currency_id": price.currency,
            },
        }
        client.ask(client.sdk.preapproval().update, reference, terms, key=key)

    def cancel_at_period_end(self, reference: str, *, key: str) -> None:
        """Cancel it now: Mercado Pago has no later end. What was paid holds, and nothing more is taken."""
        self.cancel_now(reference, key=key)

    def cancel_now(self, reference: str, *, key: str) -> None:
        client = self._client()
        if _is_purchase_reference(reference):
            self._expire_purchase(client, reference)
            return
        preapproval, _agreement = self._subscription(client, reference)
        if preapproval.get("status") != "cancelled":
            client.ask(client.sdk.preapproval().update, reference, {"status": "cancelled"}, key=key)

    def resume(self, reference: str, *, key: str) -> None:
        """Let a paused subscription go on. One that was cancelled is over for good: GatewayRefused."""
        client = self._client()
        preapproval, _agreement = self._subscription(client, reference)
        if preapproval.get("status") == "authorized":
            return
        if preapproval.get("status") != "paused":
            raise GatewayRefused("cancelled_for_good")
        client.ask(client.sdk.preapproval().update, reference, {"status": "authorized"}, key=key)

    def refund(self, payment_reference: str, *, amount_minor: int, key: str) -> None:
        client = self._client()
        payment = client.ask(client.sdk.payment().get, payment_reference)
        amount = write_amount(amount_minor, str(payment.get("currency_id")))
        client.ask(client.sdk.refund().create, payment_reference, {"amount": amount}, key=key)

    def return_credit(self, payment_reference: str, *, amount_minor: int, key: str) -> None:
        raise GatewayRefused("there is no credit")

    def payment_method_url(self, account_id: int, reference: str, return_url: str) -> str:
        """Return the page of the payer's subscriptions, where each can be paid in another way."""
        client = self._client()
        preapproval, _agreement = self._subscription(client, reference)
        page = urlsplit(str(preapproval.get("init_point")))
        return f"{page.scheme}://{page.netloc}/subscriptions"

    def forget_customer(self, account_id: int, *, key: str) -> None:
        """Do nothing: the payer's account is theirs, and Mercado Pago keeps nothing about them for us."""

    def read_notification(self, body: bytes, headers: Mapping[str, str], query: Mapping[str, str]) -> Notification:
        return notifications.read_signed(body, headers, query, self._webhook_secrets)

    # --- Whose account it is -----------------------------------------------------------------------------------------

    def find_mistakes(self) -> list[str]:
        """Return what the settings say that Mercado Pago does not; asks it."""
        account = self._account(self._client())
        mistakes = []
        if self._country is None or account.site != self._country.site:
            known = next((code for code, country in COUNTRIES.items() if country.site == account.site), account.site)
            mistakes.append(f"MERCADOPAGO_COUNTRY is {self._country_code or 'not set'}, and the account's is {known}.")
        if self.mode != ("test" if account.is_test else "live"):
            kind = "a test account's" if account.is_test else "a real account's"
            mistakes.append(f"MERCADOPAGO_MODE is {self.mode or 'not set'}, and MERCADOPAGO_ACCESS_TOKEN is {kind}.")
        return mistakes

    def _account(self, client: MercadoPagoClient) -> Account:
        """Return whose the token is: asked once, since it does not change."""
        known = _accounts.get((self._access_token, self._base_url))
        if known is None:
            with readable():
                known = _read_account(client.ask(client.sdk.user().get), self._access_token)
            _accounts[self._access_token, self._base_url] = known
        return known

    def _seller(self, client: MercadoPagoClient) -> Seller:
        if self._country is None:
            raise GatewayRefused("country_not_set")
        return Seller(self._account(client).id, self._country_code, self._country.currency)

    def _client(self, seconds: float = SECONDS) -> MercadoPagoClient:
        return MercadoPagoClient(self._access_token, self._base_url, seconds)

    # --- Buying ------------------------------------------------------------------------------------------------------

    def _start_subscription(self, client: MercadoPagoClient, order: Order, agreement: Agreement) -> Checkout:
        payer_email = order.payer_email or order.email
        for pending in client.search(
            client.sdk.preapproval().search, {"payer_email": payer_email, "status": "pending"}
        ):
            known = read_agreement(pending.get("external_reference"))
            if known and known.mark == agreement.mark:  # the same order again
                return _checkout_of("subscription", pending["id"], pending)
            if known and (known.account_id, known.kind) == (agreement.account_id, agreement.kind):
                self._cancel_pending(client, pending)
        recurring: dict[str, object] = {
            "frequency": agreement.months,
            "frequency_type": "months",
            "transaction_amount": write_amount(order.amount_minor, order.currency),
            "currency_id": order.currency,
        }
        if agreement.since != NEVER:
            recurring["start_date"] = _write_time(agreement.since)
        terms = {
            "reason": order.description,
            "external_reference": str(agreement),
            "payer_email": payer_email,
            "back_url": order.return_url,
            "auto_recurring": recurring,
            "status": "pending",
        }
        made = client.ask(client.sdk.preapproval().create, terms, key=order.key)
        return _checkout_of("subscription", made.get("id"), made)

    def _start_purchase(self, client: MercadoPagoClient, order: Order, agreement: Agreement) -> Checkout:
        now = timezone.now()
        terms = {
            "items": [
                {
                    "id": agreement.price_reference,
                    "title": order.description,
                    "quantity": 1,
                    "unit_price": write_amount(order.amount_minor, order.currency),
                    "currency_id": order.currency,
                }
            ],
            "payer": {"email": order.payer_email or order.email},
            "external_reference": str(agreement),
            "back_urls": dict.fromkeys(("success", "pending", "failure"), order.return_url),
            "expires": True,
            "expiration_date_to": _write_time(now + CHECKOUT_TIME),
            "date_of_expiration": _write_time(now + VOUCHER_TIME),
        }
        if order.return_url.startswith("https:"):  # Mercado Pago takes nobody back to another address by itself
            terms["auto_return"] = "approved"
        made = client.ask(client.sdk.preference().create, terms, key=order.key)
        return _checkout_of("purchase", str(agreement), made)

    def _cancel_pending(self, client: MercadoPagoClient, preapproval: Json) -> None:
        if preapproval.get("status") == "cancelled":
            return
        if preapproval.get("status") != "pending":
            raise GatewayRefused("checkout_completed")
        client.ask(client.sdk.preapproval().update, preapproval["id"], {"status": "cancelled"})

    def _expire_purchase(self, client: MercadoPagoClient, external_reference: str) -> None:
        ended = {"expires": True, "expiration_date_to": _write_time(timezone.now())}
        for preference in client.search(client.sdk.preference().search, {"external_reference": external_reference}):
            client.ask(client.sdk.preference().update, preference["id"], ended)
        payments = list(client.search(client.sdk.payment().search, {"external_reference": external_reference}))
        for payment in payments:
            if payment.get("status") in ("pending", "in_process"):
                client.ask(client.sdk.payment().update, payment["id"], {"status": "cancelled"})
        if any(payment.get("status") == "approved" for payment in payments):
            raise GatewayRefused("checkout_completed")

    # --- Looking -----------------------------------------------------------------------------------------------------

    def _fetch(self, client: MercadoPagoClient, reference: Reference, observed_at: dt.datetime) -> Snapshot | None:
        """Follow the reference to what was bought, and read that."""
        match reference.type:
            case "subscription":
                return self._fetch_subscription(client, reference.id, observed_at)
            case "purchase":
                return self._fetch_purchase(client, reference.id, observed_at)
            case "instalment":
                instalment = client.find(client.sdk.invoice().get, reference.id)
                if instalment is None:
                    return None
                return self._fetch_subscription(client, str(instalment["preapproval_id"]), observed_at)
            case "merchant_order":
                order = client.find(client.sdk.merchant_order().get, reference.id)
                if order is None:
                    return None
                return self._fetch_purchase(client, str(order.get("external_reference")), observed_at)
            case "chargeback":
                chargeback = client.find(client.sdk.chargeback().get, reference.id)
                if chargeback is None:
                    return None
                return self._fetch_payment(client, str(chargeback["payments"][0]), observed_at)
            case "payment":
                return self._fetch_payment(client, reference.id, observed_at)
        return None

    def _fetch_payment(self, client: MercadoPagoClient, payment_id: str, observed_at: dt.datetime) -> Snapshot | None:
        payment = client.find(client.sdk.payment().get, payment_id)
        if payment is None or not is_purchase(payment):
            return None
        agreement = read_agreement(payment.get("external_reference"))
        if agreement and agreement.kind != "subscription":
            return self._fetch_purchase(client, str(payment["external_reference"]), observed_at)
        subscription = preapproval_of(payment)
        if not subscription and agreement:
            found = client.search(client.sdk.invoice().search, {"payment_id": payment_id})
            subscription = next((str(instalment["preapproval_id"]) for instalment in found), "")
        return self._fetch_subscription(client, subscription, observed_at) if subscription else None

    def _fetch_subscription(
        self, client: MercadoPagoClient, preapproval_id: str, observed_at: dt.datetime
    ) -> Snapshot | None:
        preapproval = client.find(client.sdk.preapproval().get, preapproval_id)
        if preapproval is None:
            return None
        agreement = read_agreement(preapproval.get("external_reference"))
        if agreement is None or agreement.kind != "subscription":
            return None
        return self._read_subscription(client, preapproval, agreement, observed_at)

    def _read_subscription(
        self, client: MercadoPagoClient, preapproval: Json, agreement: Agreement, observed_at: dt.datetime
    ) -> Snapshot:
        seller = self._seller(client)
        currency = preapproval["auto_recurring"]["currency_id"]
        if str(preapproval.get("collector_id")) != seller.id or currency != seller.currency:
            sentence = gettext_noop("A subscription at Mercado Pago is another seller's: it counts for nothing.")
            alert(f"{GATEWAY}:subscription:{preapproval['id']}", sentence, subscription=preapproval["id"])
            raise GatewayRefused("subscription_of_another_seller")
        payments = self._payments_of(client, preapproval)
        return read_subscription(preapproval, agreement, payments, seller, observed_at)

    def _payments_of(self, client: MercadoPagoClient, preapproval: Json) -> list[Json]:
        """Return the subscription's payments. They are found by its external reference, which a change of price
        changes; its instalments know the earlier ones, and payments that the search does not show (yet).
        """
        instalments = list(client.search(client.sdk.invoice().search, {"preapproval_id": preapproval["id"]}))
        references = {str(thing.get("external_reference")) for thing in (preapproval, *instalments)}
        begun = {"range": "date_created", "begin_date": preapproval["date_created"], "end_date": "NOW"}
        payments: dict[str, Json] = {}
        for reference in references:
            if read_agreement(reference):
                found = client.search(client.sdk.payment().search, {"external_reference": reference, **begun})
                payments |= {str(payment["id"]): payment for payment in found}
        for instalment in instalments:
            payment_id = str((instalment.get("payment") or {}).get("id") or "")
            if payment_id and payment_id not in payments:
                payments[payment_id] = client.ask(client.sdk.payment().get, payment_id)
        return list(payments.values())

    def _fetch_purchase(
        self, client: MercadoPagoClient, external_reference: str, observed_at: dt.datetime
    ) -> Snapshot | None:
        agreement = read_agreement(external_reference)
        if agreement is None or agreement.kind == "subscription":
            return None
        payments = list(client.search(client.sdk.payment().search, {"external_reference": external_reference}))
        return read_purchase(external_reference, agreement, payments, self._seller(client), observed_at)

    def _list_references(self, since: dt.datetime) -> Iterator[Reference]:
        """Yield what lives, or changed: subscriptions, and whatever had a payment that did."""
        client = self._client(LISTING_SECONDS)
        for preapproval in client.search(client.sdk.preapproval().search, {}):
            try:
                changed_at = read_time(preapproval.get("last_modified")) or NEVER
            except ValueError:
                changed_at = since  # maybe it changed
            if read_agreement(preapproval.get("external_reference")) and (
                preapproval.get("status") in ("authorized", "paused") or changed_at >= since
            ):
                yield Reference(GATEWAY, "subscription", str(preapproval["id"]))
        changed = {"range": "date_last_updated", "begin_date": _write_time(since), "end_date": "NOW"}
        client = self._client(LISTING_SECONDS)
        for payment in client.search(client.sdk.payment().search, changed):
            agreement = read_agreement(payment.get("external_reference"))
            if agreement and agreement.kind != "subscription":
                yield Reference(GATEWAY, "purchase", str(payment["external_reference"]))
            elif subscription := preapproval_of(payment):
                yield Reference(GATEWAY, "subscription", subscription)

    def _subscription(self, client: MercadoPagoClient, reference: str) -> tuple[Json, Agreement]:
        preapproval = client.ask(client.sdk.preapproval().get, reference)
        agreement = read_agreement(preapproval.get("external_reference"))
        if agreement is None:
            raise GatewayRefused("not_ours")
        return preapproval, agreement

    def _price_to_change_to(self, agreement: Agreement, price_reference: str) -> PriceTerms:
        price = self._find_price(price_reference)
        if price is None or self._country is None or price.currency != self._country.currency:
            raise GatewayRefused("unknown_price")
        if price.months != agreement.months:  # Mercado Pago changes amounts alone
            raise GatewayRefused("interval_cannot_change")
        return price


_accounts: dict[tuple[str, str], Account] = {}
"""Whose an access token is, by token and address."""


def from_settings() -> MercadoPago:
    return MercadoPago(
        settings.MERCADOPAGO_ACCESS_TOKEN,
        settings.MERCADOPAGO_WEBHOOK_SECRETS,
        settings.MERCADOPAGO_COUNTRY,
        settings.MERCADOPAGO_MODE,
        find_price=find_terms,
        base_url=settings.SIMULATED_MERCADOPAGO_URL or API,
    )


def find_terms(reference: str) -> PriceTerms | None:
    """Return what a price of ours is; None for one there is not."""
    price = Price.objects.filter(gateway=GATEWAY, reference=reference).first()
    return PriceTerms(price.amount_minor, price.currency, price.months) if price else None


def _read_account(found: Json, access_token: str) -> Account:
    is_test = "test_user" in (found.get("tags") or ()) or access_token.startswith("TEST-")
    return Account(str(found["id"]), str(found["site_id"]), is_test)


def _checkout_of(kind: str, reference_id: object, made: Json) -> Checkout:
    if not reference_id or not made.get("init_point"):
        raise GatewayUnavailable("unreadable: no checkout")
    return Checkout(Reference(GATEWAY, kind, str(reference_id)), str(made["init_point"]))


def _is_purchase_reference(reference: str) -> bool:
    return reference.startswith(PREFIX)


def _write_time(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).isoformat(timespec="milliseconds")
