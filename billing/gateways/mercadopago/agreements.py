"""What was agreed, as Mercado Pago keeps it for us: in the external reference of whatever somebody buys there.

Mercado Pago knows no prices of ours, and no accounts. So the reference says who buys what for how much, and a payment
is compared with its own reference; what people pay does not change when a price does.
"""

import datetime as dt
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final, Literal

from billing.gateways.base import Kind, Order
from core import money

GATEWAY: Final = "mercadopago"


@dataclass(frozen=True, slots=True)
class Country:
    """Where an account of Mercado Pago is at home: its word for the country, and the only currency it takes."""

    site: str
    currency: str


COUNTRIES: Mapping[str, Country] = {
    "AR": Country("MLA", "ARS"),
    "BR": Country("MLB", "BRL"),
    "CL": Country("MLC", "CLP"),
    "CO": Country("MCO", "COP"),
    "MX": Country("MLM", "MXN"),
    "PE": Country("MPE", "PEN"),
    "UY": Country("MLU", "UYU"),
}
PREFIX = "ttl_"
LONGEST_REFERENCE = 100
"""What our rows keep of a reference."""
NEVER = dt.datetime.fromtimestamp(0, dt.UTC)

Terms = Literal["plain", "trial", "anchored", "prepaid", "pack"]
"""`plain`: a subscription whose months count from its first payment. `trial`: from the end of its trial. `anchored`:
from where they did before its price was changed."""

LETTERS: Mapping[str, Terms] = {"s": "plain", "t": "trial", "a": "anchored", "p": "prepaid", "k": "pack"}
REFERENCE = re.compile(
    PREFIX + r"(?P<letter>[stapk])(?P<months>\d{1,3})_(?P<account>\d{1,18})_(?P<since>\d{1,11})_(?P<amount>\d{1,15})"
    r"_(?P<mark>[0-9a-f]{12})_(?P<price>.+)",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Who buys what for how much. `since` is when its months begin, where that is agreed, else NEVER; `months` is how
    many a payment pays for; `mark` tells two purchases of the same thing apart.
    """

    terms: Terms
    months: int
    account_id: int
    since: dt.datetime
    amount_minor: int
    mark: str
    price_reference: str

    @property
    def kind(self) -> Kind:
        return self.terms if self.terms == "prepaid" or self.terms == "pack" else "subscription"

    def __str__(self) -> str:
        letter = next(letter for letter, terms in LETTERS.items() if terms == self.terms)
        numbers = f"{letter}{self.months}_{self.account_id}_{int(self.since.timestamp())}_{self.amount_minor}"
        return f"{PREFIX}{numbers}_{self.mark}_{self.price_reference}"

    def at_price(self, reference: str, amount_minor: int, anchor: dt.datetime) -> "Agreement":
        """Return the agreement after a change of price: the months go on counting from where they do now."""
        terms: Terms = "trial" if self.terms == "trial" else "anchored"
        since = self.since if self.terms == "trial" else anchor
        return replace(self, terms=terms, since=since, amount_minor=amount_minor, price_reference=reference)


def agree(order: Order, now: dt.datetime) -> Agreement:
    """Return what is agreed when this order is paid. Raises ValueError where Mercado Pago cannot keep it."""
    terms: Terms = "plain"
    if order.kind == "prepaid" or order.kind == "pack":
        terms = order.kind
    since = order.starts_at or NEVER
    if order.kind == "subscription" and order.trial_days:
        terms, since = "trial", max(since, now) + dt.timedelta(days=order.trial_days)
    agreement = Agreement(
        terms=terms,
        months={"month": 1, "year": 12, "": 0}[order.interval],
        account_id=order.account_id,
        since=since.replace(microsecond=0),
        amount_minor=order.amount_minor,
        mark=hashlib.sha256(order.key.encode()).hexdigest()[:12],
        price_reference=order.price_reference,
    )
    if len(str(agreement)) > LONGEST_REFERENCE or read_agreement(str(agreement)) != agreement:
        raise ValueError(str(agreement))
    return agreement


def read_agreement(external_reference: object) -> Agreement | None:
    """Return what the external reference says; None for one that is not ours."""
    found = REFERENCE.fullmatch(external_reference) if isinstance(external_reference, str) else None
    if found is None:
        return None
    return Agreement(
        terms=LETTERS[found["letter"]],
        months=int(found["months"]),
        account_id=int(found["account"]),
        since=dt.datetime.fromtimestamp(int(found["since"]), dt.UTC),
        amount_minor=int(found["amount"]),
        mark=found["mark"],
        price_reference=found["price"],
    )


def write_amount(amount_minor: int, currency: str) -> float:
    """Return what Mercado Pago calls the amount: a decimal number of the currency's main unit."""
    return float(money.to_decimal(amount_minor, currency))


def read_amount(amount: object, currency: str) -> int:
    """Return Mercado Pago's amount in minor units. Raises ValueError where it is none, or has a fraction of one."""
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        raise ValueError(f"{amount} {currency}")
    return money.to_minor(Decimal(str(amount)), currency)
