"""The operator's pages: what is sold, who has what, what was paid and used, and what an operator does about it."""

from billing.admin import errands, ledger, purchases, selling
from billing.gateways.stripe import admin as stripe_admin

__all__ = ["errands", "ledger", "purchases", "selling"]

stripe_admin.register()
