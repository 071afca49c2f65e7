"""The shapes of what the simulated Mercado Pago sends: only those fields that the site or a person reads, as it has
them. Real ones were looked at (see docs/billing.md); ids, amounts and times are of the same kind.
"""

import calendar
import datetime as dt
from typing import Any

Json = dict[str, Any]

SELLER_ID = 1_300_200_100
APPLICATION_ID = 4_455_667_788
PAYER_ID = 700_100_200
ZONE = dt.timezone(-dt.timedelta(hours=4))
"""Mercado Pago tells every time in the zone of Manaos."""

SITES = {"ARS": "MLA", "BRL": "MLB", "CLP": "MLC", "COP": "MCO", "MXN": "MLM", "PEN": "MPE", "UYU": "MLU"}
COUNTRIES = {"AR": "MLA", "BR": "MLB", "CL": "MLC", "CO": "MCO", "MX": "MLM", "PE": "MPE", "UY": "MLU"}
CASH = {
    "ARS": (("rapipago", "Rapipago"),),
    "BRL": (("pix", "Pix"), ("bolbradesco", "Boleto")),
    "CLP": (("webpay", "Webpay"),),
    "COP": (("efecty", "Efecty"), ("pse", "PSE")),
    "MXN": (("oxxo", "OXXO"),),
    "PEN": (("pagoefectivo_atm", "PagoEfectivo"),),
    "UYU": (("redpagos", "Redpagos"),),
}
"""How a payment is made later, by currency: Mercado Pago's word, and people's."""
BANK_TRANSFERS = ("pix", "pse", "webpay")


def format_time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, ZONE).isoformat(timespec="milliseconds")


def parse_time(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp())


def months_after(seconds: int, months: int) -> int:
    """Return the same day and time so many months later; the last day of a month that has no such day."""
    begun = dt.datetime.fromtimestamp(seconds, dt.UTC)
    year, month = divmod(begun.year * 12 + begun.month - 1 + months, 12)
    day = min(begun.day, calendar.monthrange(year, month + 1)[1])
    return int(begun.replace(year=year, month=month + 1, day=day).timestamp())


def seller(site: str, *, is_test: bool) -> Json:
    return {
        "id": SELLER_ID,
        "nickname": "SIMULATED",
        "email": "seller@testuser.com",
        "site_id": site,
        "country_id": site[1:],
        "user_type": "normal",
        "tags": ["normal", "test_user"] if is_test else ["normal"],
        "status": {"site_status": "active"},
    }


def preapproval(number: str, asked: Json, now: int, init_point: str) -> Json:
    recurring = asked["auto_recurring"]
    return {
        "id": number,
        "payer_id": 0,
        "payer_email": "",  # it is asked for, and not shown
        "back_url": asked["back_url"],
        "collector_id": SELLER_ID,
        "application_id": APPLICATION_ID,
        "status": "pending",
        "reason": asked["reason"],
        "external_reference": asked.get("external_reference", ""),
        "date_created": format_time(now),
        "last_modified": format_time(now),
        "init_point": init_point,
        "auto_recurring": {
            "frequency": recurring["frequency"],
            "frequency_type": recurring["frequency_type"],
            "transaction_amount": recurring["transaction_amount"],
            "currency_id": recurring["currency_id"],
            "start_date": recurring.get("start_date") or format_time(now),
            "free_trial": None,
        },
        "summarized": None,
        "next_payment_date": recurring.get("start_date") or format_time(now),
        "payment_method_id": None,
        "card_id": None,
        "version": 0,
    }


def instalment(number: int, subscription: Json, due: int, now: int) -> Json:
    return {
        "id": number,
        "type": "scheduled",
        "date_created": format_time(now),
        "last_modified": format_time(now),
        "preapproval_id": subscription["id"],
        "reason": subscription["reason"],
        "external_reference": subscription["external_reference"],
        "currency_id": subscription["auto_recurring"]["currency_id"],
        "transaction_amount": subscription["auto_recurring"]["transaction_amount"],
        "debit_date": format_time(due),
        "next_retry_date": None,
        "retry_attempt": 0,
        "status": "scheduled",
        "payment": None,
    }


def payment(number: int, now: int, *, amount: float, currency: str, reference: str, description: str) -> Json:
    """Return a payment that nothing is known of yet but what it is for."""
    return {
        "id": number,
        "date_created": format_time(now),
        "date_approved": None,
        "date_last_updated": format_time(now),
        "date_of_expiration": None,
        "operation_type": "regular_payment",
        "status": "pending",
        "status_detail": "pending_waiting_payment",
        "currency_id": currency,
        "description": description,
        "live_mode": True,  # of test sellers, too
        "collector_id": SELLER_ID,
        "payer": {"id": str(PAYER_ID), "email": None, "identification": {"type": "DNI", "number": "12345678"}},
        "metadata": {},
        "order": {},
        "external_reference": reference,
        "transaction_amount": amount,
        "transaction_amount_refunded": 0,
        "coupon_amount": 0,
        "taxes_amount": 0,
        "installments": 1,
        "payment_method_id": "visa",
        "payment_type_id": "credit_card",
        "transaction_details": {
            "net_received_amount": amount,
            "total_paid_amount": amount,
            "external_resource_url": None,
            "payment_method_reference_id": None,
        },
        "point_of_interaction": {"type": "CHECKOUT", "transaction_data": {}},
        "refunds": [],
    }


def recurring_data(subscription: Json, due: int) -> Json:
    months = subscription["auto_recurring"]["frequency"]
    return {
        "type": "SUBSCRIPTIONS",
        "transaction_data": {
            "billing_date": dt.datetime.fromtimestamp(due, ZONE).date().isoformat(),
            "invoice_period": {"type": "monthly", "period": months},
            "subscription_id": subscription["id"],
            "subscription_sequence": {"number": None, "total": None},
        },
    }


def preference(number: str, asked: Json, now: int, init_point: str) -> Json:
    return {
        "id": number,
        "collector_id": SELLER_ID,
        "date_created": format_time(now),
        "init_point": init_point,
        "sandbox_init_point": init_point,
        "items": asked["items"],
        "payer": asked.get("payer", {}),
        "back_urls": asked.get("back_urls", {}),
        "auto_return": asked.get("auto_return", ""),
        "external_reference": asked.get("external_reference", ""),
        "expires": asked.get("expires", False),
        "expiration_date_to": asked.get("expiration_date_to"),
        "date_of_expiration": asked.get("date_of_expiration"),
        "operation_type": "regular_payment",
        "site_id": SITES.get(asked["items"][0]["currency_id"], "MLA"),
    }


def chargeback(number: str, disputed: Json, now: int) -> Json:
    return {
        "id": number,
        "payments": [disputed["id"]],
        "currency": disputed["currency_id"],
        "amount": disputed["transaction_amount"],
        "reason": "general",
        "coverage_applied": None,
        "documentation_required": True,
        "documentation_status": "pending",
        "date_created": format_time(now),
        "date_last_updated": format_time(now),
        "live_mode": True,
    }
