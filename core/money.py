"""Amounts of money as integers in the currency's minor unit, and how a person reads them; how much a credit is."""

from decimal import Decimal

from django.utils.formats import number_format

NBSP = "\N{NO-BREAK SPACE}"

MICROS_PER_CREDIT = 1_000
"""A credit, in which members count, is a thousand millionths of a US dollar."""

EXPONENTS = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV"), 0),
    **dict.fromkeys(("XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "JOD", "KWD", "OMR", "TND"), 3),
}
"""How many digits a currency has after the point, where that is not 2: as gateways charge it, which is ISO 4217 but for
a few (ISK and UGX are charged with two, which are always 0)."""


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
