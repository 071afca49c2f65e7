"""The pages whose scripts may use the API from a browser: an operator names some for all (CORS_ALLOWED_ORIGINS), and a
key may have its own."""

from collections.abc import Iterable

from django.dispatch import receiver
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from accounts.models import ApiKey
from accounts.signals import key_revoked
from core.caching import CachedTable
from core.origins import parse_origin

MAX_ORIGINS = 10
"""Of one key."""
BAD_ORIGIN = _("Write addresses of up to ten sites, like https://app.example.com, without what comes after the name.")


def parse_origins(texts: Iterable[str]) -> tuple[str, ...]:
    """Return origins, each once; raises ValueError for what is none, or for more than MAX_ORIGINS."""
    found = tuple(dict.fromkeys(map(parse_origin, texts)))
    if len(found) > MAX_ORIGINS:
        raise ValueError
    return found


def origins_of_keys() -> frozenset[str]:
    """Return the origins of all keys that are not revoked: a browser asks whether it may before it shows a key."""
    return _of_keys.get()


def may_come_from(key: ApiKey, request: HttpRequest) -> bool:
    """Return whether a request with the key may come from where it says it does: from no page, from one of this site,
    or from one of the key's. A key without origins may come from wherever the operator lets pages come from."""
    origin = request.headers.get("Origin", "")
    if not origin or not key.origins or origin in key.origins.split():
        return True
    return origin == f"{request.scheme}://{request.get_host()}"


@receiver(key_revoked)
def forget_origins(**_signal: object) -> None:
    """Have every process read them again: a key is revoked by a statement that Django's signals do not tell of."""
    _of_keys.changed()


def _load() -> frozenset[str]:
    rows = ApiKey.objects.filter(revoked_at=None, origins__gt="").values_list("origins", flat=True)
    return frozenset(origin for origins in rows for origin in (origins or "").split())


_of_keys = CachedTable("key_origins", _load, ApiKey)
