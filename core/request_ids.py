"""Ids of requests, which are in their answers, their errors and the log lines of what follows from them."""

import re
from uuid import uuid4

VALID_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
"""What a client or a proxy may send as X-Request-ID."""


def request_id_of(given: str) -> str:
    """Return the id that a client or a proxy sent, if it is well formed, else a new one."""
    return given if VALID_ID.fullmatch(given) else uuid4().hex
