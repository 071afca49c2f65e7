"""Amounts of money as integers in the currency's minor unit, and how a person reads them."""

from decimal import Decimal

from django.utils.formats import number_format

NBSP = "\N{NO-BREAK SPACE}"

EXPONENTS = {"CLP": 0, "COP": 2, "PYG": 0, "JPY": 0, "KRW": 0, "VND": 0, "UYU": 2, "KWD": 3, "BHD": 3, "TND": 3}
"""How many digits a currency has after the point (ISO 4217), where that is not 2 or is often thought not to be."""


def exponent_of(currency: str) -> int:
    return EXPONENTS.get(currency.upper(), 2)


def to_decimal(amount_minor: int, currency: str) -> Decimal:
    """Return the amount in the currency's own unit, with all its digits."""
    return Decimal(amount_minor).scaleb(-exponent_of(currency))


def to_minor(amount: Decimal, currency: str) -> int:
    """Return the amount in the currency's minor unit; raises ValueError for a fraction of it."""
    minor = amount.scaleb(exponent_of(currency))
    if minor != minor.to_integral_value():
        raise ValueError(f"{amount} {currency} has more digits than the currency.")
    return int(minor)


def format_money(amount_minor: int, currency: str) -> str:
    """Return the amount as the active language writes numbers, with the currency's letters: `$` is eight currencies."""
    number = to_decimal(amount_minor, currency)
    return f"{number_format(number, exponent_of(currency), use_l10n=True, force_grouping=True)}{NBSP}{currency.upper()}"
