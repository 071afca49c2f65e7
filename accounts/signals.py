"""Signals of accounts, which tell other apps of events without importing them."""

from django.dispatch import Signal

access_revoked = Signal()
"""Sent with `user_id` when a suspended user is saved: their open sockets close."""
