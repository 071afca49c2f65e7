"""Signals of the history, which tell other apps of events without importing them."""

from django.dispatch import Signal

conversation_deleted = Signal()
"""Sent with `conversation`, `turn_ids` and `patience_seconds` before the rows of a deleted conversation are erased.

A receiver erases what else belongs to it, and returns True when nothing is left to do: no turn is open, none is unpaid.
It may wait for that as long as `patience_seconds`. After any other answer, or an error, the signal is sent again later,
so that a receiver must be ready to be called more than once, and at the same time as itself.
"""

branch_chosen = Signal()
"""Sent with `conversation` when its owner has chosen another branch of it."""

conversations_trashed = Signal()
"""Sent with `owner_id` and `conversation_ids` after conversations were put into the trash. What a receiver does not get
done, the sweep does."""

conversations_changed = Signal()
"""Sent with `owner_id` and `conversation_ids` after conversations have got another title or place: were renamed, taken
out of the trash, pinned, archived, moved. With no ids, after a folder has changed."""
