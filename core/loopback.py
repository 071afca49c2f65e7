"""What only this machine can reach, whatever a request says of itself."""

import socket
from ipaddress import ip_address

from django.http import HttpRequest

FORWARDED = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")
"""Headers that a proxy adds: anybody may be behind it."""


def is_loopback(host: str) -> bool:
    """Return whether a server that listens on this host, a name or an address, is reached from this machine alone."""
    try:
        return all(ip_address(found[4][0]).is_loopback for found in socket.getaddrinfo(host, None))
    except (OSError, ValueError):  # the server will say what is wrong with it
        return False


def comes_from_this_machine(request: HttpRequest) -> bool:
    """Return whether the peer is this machine. `Host` says nothing of that: the peer writes it."""
    try:
        peer = ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:  # a socket of the file system, which is a proxy's
        return False
    return (getattr(peer, "ipv4_mapped", None) or peer).is_loopback and not any(
        name in request.headers for name in FORWARDED
    )
