"""What must travel from one app to another without an import."""

from django.dispatch import Signal

access_revoked = Signal()
"""Sent with `user_id` when somebody who is suspended is saved: open sockets close."""
