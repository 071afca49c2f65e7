"""The user who sent a request, where only members may; the network address it came from."""

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from rest_framework.request import Request

from accounts.models import User


def user_id_of(request: Request) -> int:
    """Return the id of the authenticated user."""
    user_id = request.user.pk
    assert isinstance(user_id, int)
    return user_id


def member_of(request: HttpRequest) -> User:
    """Return the user who is logged in, in a view that only members reach."""
    assert isinstance(request.user, User)
    return request.user


def peer_of(request: HttpRequest) -> str:
    """Return the network address of the client: what the outermost of our proxies saw. Empty if nobody knows it."""
    return _peer(str(request.META.get("REMOTE_ADDR", "")), str(request.META.get("HTTP_X_FORWARDED_FOR", "")))


def peer_in(scope: Mapping[str, Any]) -> str:
    """Return the same of a connection (ASGI), before there is a request."""
    forwarded = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    return _peer((scope.get("client") or ("",))[0], forwarded.decode("latin-1"))


def _peer(sender: str, forwarded: str) -> str:
    if not settings.TRUSTED_PROXIES or not forwarded:
        return sender
    addresses = forwarded.split(",")
    return str(addresses[-min(settings.TRUSTED_PROXIES, len(addresses))].strip())
