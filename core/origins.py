"""Origins, as browsers name the sites that pages come from (RFC 6454)."""

from urllib.parse import urlsplit

from django.utils.encoding import punycode


def parse_origin(text: str) -> str:
    """Return an origin as browsers send it: scheme, host, and a port that is not the usual one. Raises ValueError."""
    parts = urlsplit(text.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(text)
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(text)
    host = punycode(parts.hostname).lower()
    if ":" in host:
        host = f"[{host}]"
    if any(character in host for character in " *,;\\"):
        raise ValueError(text)
    usual = 443 if parts.scheme == "https" else 80
    port = "" if parts.port in (None, usual) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"
