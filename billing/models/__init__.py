"""Money: what plans allow and cost, who pays what, what is reserved, what was used.

What people use is counted in integer micro-US-dollars, what they pay in the minor unit of a currency.
"""

from billing.models.accounts import BillingAccount, StaffAct
from billing.models.errands import (
    MAX_ATTEMPTS,
    ROUND_SECONDS,
    AllowanceNotice,
    GatewayEvent,
    GatewayTask,
    Letter,
)
from billing.models.ledger import PartMonth, Reservation, Spending, SpendingEntry, UsagePeriod, UsageRecord
from billing.models.purchases import Payment, Purchase, Reversal, Subscription
from billing.models.selling import (
    Coupon,
    ExchangeRate,
    Plan,
    Price,
    new_price_reference,
)

__all__ = [
    "MAX_ATTEMPTS",
    "ROUND_SECONDS",
    "AllowanceNotice",
    "BillingAccount",
    "Coupon",
    "ExchangeRate",
    "GatewayEvent",
    "GatewayTask",
    "Letter",
    "Payment",
    "Plan",
    "Price",
    "Purchase",
    "PartMonth",
    "Reservation",
    "Reversal",
    "Spending",
    "SpendingEntry",
    "StaffAct",
    "Subscription",
    "UsagePeriod",
    "UsageRecord",
    "new_price_reference",
]
