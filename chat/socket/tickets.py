"""Tickets: each opens one socket, for a client with a token and no session cookie. It cannot set headers there."""

import secrets
from typing import Any

import msgspec

from accounts.admission import Admission
from core.redis_clients import sync_redis

TICKET_SECONDS = 60


def issue_ticket(admission: Admission) -> str:
    """Return a ticket for one socket, good for TICKET_SECONDS. The socket may stay for as long as what it was asked for
    with is good."""
    ticket = secrets.token_urlsafe(32)
    sync_redis().set(f"ticket:{ticket}", msgspec.json.encode(admission), ex=TICKET_SECONDS)
    return ticket


def redeem_ticket(ticket: str) -> Admission | None:
    """Return what a ticket was asked for with, once; None for one that is unknown, used or too old."""
    found: Any = sync_redis().getdel(f"ticket:{ticket}") if ticket else None
    try:
        return msgspec.json.decode(found, type=Admission) if found else None
    except msgspec.MsgspecError:  # nobody of ours has written it
        return None
