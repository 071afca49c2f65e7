"""Who opens a socket: the owner of a ticket, or the session of one of our own pages."""

from io import BytesIO
from typing import Any
from urllib.parse import parse_qs

from django.conf import settings
from django.contrib.auth import get_user
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, parse_cookie

from accounts.admission import Admission, admission_by_session, find_admitted
from accounts.http import network_in
from accounts.models import User
from accounts.sessions import SessionStore
from chat.errors import AccessEnded
from chat.socket.tickets import redeem_ticket
from core.fair_line import FairLine
from core.loops import PerLoop
from core.threads import IS_SQLITE, in_thread

HANDSHAKES_AT_ONCE, HANDSHAKES_EACH = (1, 1) if IS_SQLITE else (8, 4)
"""Of a process, and of one network: questions wait for the same threads, and not behind a crowd of handshakes."""
MOST_WAITING = 1_000  # of one network

_lines = PerLoop(lambda: FairLine(HANDSHAKES_AT_ONCE, HANDSHAKES_EACH, MOST_WAITING))


async def find_in_turn(scope: dict[str, Any]) -> tuple[User, Admission] | None:
    """Do what `find_socket_user` does, in a thread, when it is this network's turn. Raises RateLimited if too many of
    its sockets wait for that, and AccessEnded."""
    line, network = _lines.get(), network_in(scope)
    await line.enter(network)
    try:
        return await in_thread(find_socket_user, scope)
    finally:
        line.leave(network)


def find_socket_user(scope: dict[str, Any]) -> tuple[User, Admission] | None:
    """Return whose socket this is and what lets them in, by the scope of its handshake (ASGI); None to refuse it. Sync:
    it asks stores, whose errors (RedisError, OperationalError) mean that nobody knows.

    A page says whose it is (`member`), as it may come back after they were logged out, and another was logged in at the
    same browser: it raises AccessEnded then, so that nothing of the one is asked as the other.

    Channels' session middleware is not used: it would wrap every message that is sent.
    """
    headers = dict(scope["headers"])
    origin = headers.get(b"origin", b"").decode("latin-1")
    if origin and not _is_our_origin(origin, scope):
        return None
    query = parse_qs(scope["query_string"].decode("latin-1"))
    if "ticket" in query:
        return _find_ticket_owner(query["ticket"][0])
    if not origin:  # only programs send none; a cookie is a browser's, and alone proves nothing
        return None
    found = _find_session_user(headers.get(b"cookie", b"").decode("latin-1"))
    if "member" in query and (found is None or str(found[0].pk) != query["member"][0]):
        raise AccessEnded
    return found


def _is_our_origin(origin: str, scope: dict[str, Any]) -> bool:
    """Return whether the page is at SITE_URL, or at the scheme, host and port this handshake was sent to: the rule that
    Django has for forms."""
    if origin == settings.SITE_URL:
        return True
    scheme = scope["scheme"].replace("ws", "http")
    request = ASGIRequest({**scope, "method": "GET", "scheme": scheme}, BytesIO())
    try:
        return origin == f"{request.scheme}://{request.get_host()}"  # by the trusted proxy and ALLOWED_HOSTS
    except DisallowedHost:
        return False


def _find_ticket_owner(ticket: str) -> tuple[User, Admission] | None:
    admission = redeem_ticket(ticket)
    user = find_admitted(admission) if admission else None
    return (user, admission) if user and admission else None


def _find_session_user(cookies: str) -> tuple[User, Admission] | None:
    request = HttpRequest()
    request.session = SessionStore(parse_cookie(cookies).get(settings.SESSION_COOKIE_NAME))
    user = get_user(request)
    if not isinstance(user, User) or user.closes_at is not None:
        return None
    return user, admission_by_session(user, request.session)
