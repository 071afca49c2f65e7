"""Who opens a socket: the owner of a ticket, or the session of one of our own pages."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

from django.conf import settings
from django.contrib.auth import get_user
from django.http import HttpRequest, parse_cookie
from django.http.request import split_domain_port, validate_host

from accounts.admission import Admission, admission_by_session, find_admitted
from accounts.models import User
from accounts.sessions import SessionStore
from chat.socket.tickets import redeem_ticket


def find_socket_user(scope: dict[str, Any]) -> tuple[User, Admission] | None:
    """Return whose socket this is and what lets them in, by the scope of its handshake (ASGI); None to refuse it. Sync:
    it asks stores, whose errors (RedisError, OperationalError) mean that nobody knows.

    Channels' session middleware is not used: it would wrap every message that is sent.
    """
    headers = dict(scope["headers"])
    origin = headers.get(b"origin", b"").decode("latin-1")
    if origin and not _is_allowed_origin(origin):
        return None
    query = parse_qs(scope["query_string"].decode("latin-1"))
    if "ticket" in query:
        return _find_ticket_owner(query["ticket"][0])
    if not origin:  # browsers always send one, so this is no page, and a cookie alone proves nothing
        return None
    return _find_session_user(headers.get(b"cookie", b"").decode("latin-1"))


def _is_allowed_origin(origin: str) -> bool:
    """Return whether the origin is one of our hosts; false for what is no address at all."""
    try:
        netloc = urlsplit(origin).netloc  # with the brackets of IPv6, as ALLOWED_HOSTS has them
        host, _port = split_domain_port(netloc)
    except ValueError:
        return False
    return validate_host(host, settings.ALLOWED_HOSTS)


def _find_ticket_owner(ticket: str) -> tuple[User, Admission] | None:
    admission = redeem_ticket(ticket)
    user = find_admitted(admission) if admission else None
    return (user, admission) if user and admission else None


def _find_session_user(cookies: str) -> tuple[User, Admission] | None:
    request = HttpRequest()
    request.session = SessionStore(parse_cookie(cookies).get(settings.SESSION_COOKIE_NAME))
    user = get_user(request)
    if not isinstance(user, User):
        return None
    return user, admission_by_session(user, request.session)
