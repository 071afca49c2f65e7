"""Stripe: checkout, renewals, changes and refunds through its API; dj-stripe's rows mirror what was fetched."""
