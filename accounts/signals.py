"""Signals of accounts, which tell other apps of events without importing them."""

from django.dispatch import Signal

access_revoked = Signal()
"""Sent with `user_id` when a suspended user is saved, and when one was deleted: their open sockets close."""

account_closed = Signal()
"""Sent with `user_id` and `patience_seconds` after a user was deleted: what is theirs is erased, but for sums without a
name.

A receiver returns True when nothing is left to do, for which it may wait as long as `patience_seconds`. The signal is
sent again and again for two minutes at least, and until every receiver has said so: a receiver must be ready for that,
and for being called at the same time as itself.
"""
