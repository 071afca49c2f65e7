"""Tickets: each opens one socket, for a client with a token and no session cookie. It cannot set headers there."""

import secrets

from core.redis_clients import sync_redis

TICKET_SECONDS = 60


def issue_ticket(user_id: int) -> str:
    """Return a ticket for one socket, good for TICKET_SECONDS."""
    ticket = secrets.token_urlsafe(32)
    sync_redis().set(f"ticket:{ticket}", user_id, ex=TICKET_SECONDS)
    return ticket


def redeem_ticket(ticket: str) -> int | None:
    """Return whose ticket it is, once; None for one that is unknown, used or too old."""
    user_id = sync_redis().getdel(f"ticket:{ticket}") if ticket else None
    return int(user_id) if user_id else None
