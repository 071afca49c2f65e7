"""The user who sent a request, where only members may; the network address it came from."""

import ipaddress
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


def is_of_site(origin: str, request: HttpRequest) -> bool:
    """Return whether an origin is SITE_URL, or where this request was sent to: the rule that Django has for forms."""
    return origin in (settings.SITE_URL, f"{request.scheme}://{request.get_host()}")


def peer_of(request: HttpRequest) -> str:
    """Return the network address of the client: what the outermost of our proxies saw. Empty if nobody knows it."""
    return _peer(str(request.META.get("REMOTE_ADDR", "")), str(request.META.get("HTTP_X_FORWARDED_FOR", "")))


def network_in(scope: Mapping[str, Any]) -> str:
    """Return the network of a client, by its connection (ASGI), before there is a request."""
    forwarded = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    return network_of(_peer((scope.get("client") or ("",))[0], forwarded.decode("latin-1")))


def network_of(peer: str) -> str:
    """Return what counts as one network: an IPv4 address, the /64 of an IPv6 one (whoever has one address there has
    them all); one name for everything that is no address."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _peer(sender: str, forwarded: str) -> str:
    if not settings.TRUSTED_PROXIES or not forwarded:
        return sender
    addresses = forwarded.split(",")
    return str(addresses[-min(settings.TRUSTED_PROXIES, len(addresses))].strip())
