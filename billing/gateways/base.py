"""What a payment gateway is to the rest of billing: something that is asked for a `Snapshot` and told what to do.

Nothing that Stripe or Mercado Pago calls its own leaves the folder of that gateway. A notification is only a hint:
it becomes a `Reference`, the reference is fetched, and what was fetched becomes a `Snapshot`, which
`subscriptions.apply` turns into rows. Every method that asks the gateway takes at most `SECONDS` (`list_recent`, each
time it asks), and is called outside of transactions and locks.

Amounts are integers in the currency's minor unit (`core/money.py` knows how many digits that is). Times are aware, UTC.
"""

import datetime as dt
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, Protocol

SECONDS = 10.0
"""The longest a gateway is waited for."""
LISTING_SECONDS = 120.0
"""The longest a list of everything that is alive may take, page after page: no request waits for it."""

SILENCES = 3
"""How often a gateway may not answer, one time after the other, until a list of purchases is given up."""

logger = logging.getLogger(__name__)

_ends_at: ContextVar[float] = ContextVar("gateways_are_waited_for_until", default=math.inf)


@contextmanager
def one_wait(seconds: float = SECONDS) -> Iterator[None]:
    """Let all that gateways are asked within take so long together: somebody waits for a page. What has no time left
    raises GatewayUnavailable."""
    token = _ends_at.set(deadline(seconds))
    try:
        yield
    finally:
        _ends_at.reset(token)


def deadline(seconds: float = SECONDS) -> float:
    """Return until when (`time.monotonic()`) an operation may take that begins now."""
    return min(_ends_at.get(), time.monotonic() + seconds)


Interval = Literal["month", "year", ""]
Kind = Literal["subscription", "prepaid", "pack"]
"""What is bought: a plan that renews; one paid period of a plan, that does not; credits beside the plan."""

PaymentMode = Literal["live", "test", "simulated"]
"""Whether payments are real; are a gateway's test mode; or are made on a page of this machine."""

SubscriptionStatus = Literal["pending", "trialing", "active", "past_due", "paused", "ended"]
PaymentStatus = Literal["pending", "paid", "failed", "void"]
"""`pending` also covers a payment that waits for the bank's confirmation or for cash; `failed` may be tried again."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Something at a gateway, by the gateway's own words: what a notification is about, never what it says.

    Two types are every gateway's: with the `reference` of a snapshot, `subscription` is one that renews, and `purchase`
    what was bought once.
    """

    gateway: str
    type: str
    id: str


@dataclass(frozen=True, slots=True)
class PaymentSnapshot:
    """One invoice or payment, as the gateway has it now.

    `period_start` and `period_end` are what it pays for; None where the gateway does not say, and `apply` reckons it
    from the anchor. `is_proration` is the invoice of an upgrade: it pays for the rest of a running period.
    """

    reference: str
    status: PaymentStatus
    price_reference: str
    amount_minor: int
    currency: str
    period_start: dt.datetime | None = None
    period_end: dt.datetime | None = None
    is_proration: bool = False
    paid_at: dt.datetime | None = None
    refunded_minor: int = 0
    credit_minor: int = 0
    """What was paid of it beside `amount_minor` with a credit that the payer had at the gateway."""
    dispute: Literal["", "open", "won", "lost"] = ""
    tax_minor: int = 0
    tax_country: str = ""
    tax_id: str = ""
    receipt_url: str = ""
    action_url: str = ""
    """Where the payer must go: a bank's confirmation, a voucher, the hosted invoice. Empty: nowhere."""
    action: Literal["", "confirm", "voucher", "pay"] = ""
    action_code: str = ""
    """What a voucher is paid with, if it has one: Pix's text, a bar code's digits, the number of a cash payment."""
    expires_at: dt.datetime | None = None
    """When a voucher is worth nothing any more."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One purchase as the gateway has it now, with every payment of it.

    `account_id` is the one we sent along with the checkout; `price_reference` is what is bought from now on. `anchor`
    is when its months begin to count. `observed_at` was taken before the gateway was asked.
    """

    gateway: str
    reference: str
    kind: Kind
    account_id: int
    status: SubscriptionStatus
    price_reference: str
    anchor: dt.datetime
    observed_at: dt.datetime
    payments: tuple[PaymentSnapshot, ...] = ()
    next_price_reference: str = ""
    """What it changes to at the end of its period; empty while nothing is planned."""
    cancels_at: dt.datetime | None = None
    """When it ends by itself; None while it renews."""
    trial_end: dt.datetime | None = None
    card_fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody wants to buy. `key` makes repeating it harmless."""

    key: str
    account_id: int
    email: str
    kind: Kind
    price_reference: str
    description: str
    amount_minor: int
    currency: str
    interval: Interval
    return_url: str
    locale: str
    starts_at: dt.datetime | None = None
    """When the first period begins, if not now: what is paid elsewhere until then."""
    trial_days: int = 0
    discount_reference: str = ""
    payer_email: str = ""
    """The address of the payer's account at the gateway, if it is not `email`: Mercado Pago's checkout wants that."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """Where the buyer pays; `reference` is what can be fetched later, and expired."""

    reference: Reference
    url: str


@dataclass(frozen=True, slots=True)
class ChangePreview:
    """What changing to another price takes now; `proration_date` makes the change cost exactly that."""

    amount_minor: int
    currency: str
    proration_date: dt.datetime
    next_amount_minor: int
    next_payment_at: dt.datetime


class GatewayUnavailable(Exception):
    """The gateway did not answer in time, or not in its own language: try again with the same key."""


@contextmanager
def readable() -> Iterator[None]:
    """What a gateway sends may be JSON and still not its own language: that is worth another try."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration) as error:
        raise GatewayUnavailable(f"unreadable: {type(error).__name__}") from error


class GatewayRefused(Exception):
    """The gateway answered, and said no: trying again changes nothing. `code` is its own word, for logs alone."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class BadNotification(Exception):
    """A notification that is not from the gateway, or too old, or not meant for this site. `reason` is for logs."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Notification:
    """A genuine notification: `event_id` is the same each time it is delivered. `reference` None: of no interest."""

    event_id: str
    event_type: str
    reference: Reference | None


class Gateway(Protocol):
    """One gateway. Calls that change something take a `key`: the same key again changes nothing."""

    name: str
    title: str
    """What people call it."""
    kinds: tuple[Kind, ...]
    """What it can sell."""
    wants_payer_email: bool
    """Whether its checkout of a subscription refuses everybody but the payer named in the order."""
    has_prorations: bool
    """Whether an upgrade counts at once and is paid for the rest of the period; else at the next payment."""
    changes_interval: bool
    """Whether what is paid by the month can be changed to what is paid by the year, and the other way."""

    @property
    def payment_mode(self) -> PaymentMode: ...

    def start_checkout(self, order: Order) -> Checkout: ...

    def expire_checkout(self, reference: Reference) -> None: ...

    def fetch(self, reference: Reference) -> Snapshot | None:
        """Return what the reference belongs to, as it is now; None where that is nothing we sell."""
        ...

    def list_recent(self, since: dt.datetime) -> Iterator[Snapshot]:
        """Yield every purchase that is alive, or changed since."""
        ...

    def preview_change(self, reference: str, price_reference: str) -> ChangePreview: ...

    def change_price(self, reference: str, price_reference: str, preview: ChangePreview, *, key: str) -> None:
        """Upgrade at once: what it takes is billed now, with the preview's date."""
        ...

    def change_price_at_period_end(self, reference: str, price_reference: str, *, key: str) -> None: ...

    def cancel_at_period_end(self, reference: str, *, key: str) -> None: ...

    def cancel_now(self, reference: str, *, key: str) -> None:
        """End it, and void what is still to be paid of it."""
        ...

    def resume(self, reference: str, *, key: str) -> None: ...

    def refund(self, payment_reference: str, *, amount_minor: int, key: str) -> None: ...

    def return_credit(self, payment_reference: str, *, amount_minor: int, key: str) -> None:
        """Give the payer the credit back with which they paid."""
        ...

    def payment_method_url(self, account_id: int, reference: str, return_url: str) -> str:
        """Return a page of the gateway where the payer changes how they pay."""
        ...

    def forget_customer(self, account_id: int, *, key: str) -> None:
        """Erase what the gateway knows of the person, as far as it can."""
        ...

    def read_notification(self, body: bytes, headers: Mapping[str, str], query: Mapping[str, str]) -> Notification:
        """Return what a genuine notification is about, without asking the gateway. Raises BadNotification."""
        ...


def fetch_each(gateway: Gateway, references: Iterable[Reference]) -> Iterator[Snapshot]:
    """Yield what the references belong to, each purchase once. What cannot be read is logged, and does not keep the
    others from being seen. Raises GatewayUnavailable when the gateway is silent SILENCES times on end."""
    seen, silences = set[str](), 0
    for reference in dict.fromkeys(references):
        try:
            snapshot = gateway.fetch(reference)
        except (GatewayRefused, GatewayUnavailable) as error:
            silences += isinstance(error, GatewayUnavailable)
            if silences == SILENCES:
                raise
            logger.exception("A purchase cannot be read", extra={"gateway": gateway.name, "reference": reference.id})
            continue
        silences = 0
        if snapshot is not None and snapshot.reference not in seen:
            seen.add(snapshot.reference)
            yield snapshot
