"""Signals of accounts, which tell other apps of events without importing them."""

from django.dispatch import Signal

access_revoked = Signal()
"""Sent with `user_id` when something that let this person in is over: a password was changed, a session or a family of
tokens logged out, the person suspended or deleted. What they have open asks again whether it still may be
(admission.py).

Sent where it happens: a receiver waits for the commit.
"""

key_revoked = Signal()
"""Sent with `user_id` when an API key of theirs is, or all are: what is open with it asks again, and pages of its
origins are let in no more. By itself nothing else of the person is over."""

token_made = Signal()
"""Sent with `user` for each access token. A receiver returns what is to be in it for programs to show, by name."""

account_leaving = Signal()
"""Sent with `user_id` when somebody has asked for their account to be closed, in the transaction of that; and again
with every sweep until it is closed: what would go on without them is stopped. A receiver must be ready for that."""

everything_taken_along = Signal()
"""Sent with `user` when an export of everything is made, in their language and time zone. A receiver returns what it
has of them, as an iterable of export_parts.ExportPart; it may be asked again."""

account_closed = Signal()
"""Sent with `user_id` and `patience_seconds` after a user was deleted: what is theirs is erased, but for sums without a
name.

A receiver returns True when nothing is left to do, for which it may wait as long as `patience_seconds`. The signal is
sent again and again for two minutes at least, and until every receiver has said so: a receiver must be ready for that,
and for being called at the same time as itself.
"""
