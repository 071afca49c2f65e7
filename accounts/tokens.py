"""The API's tokens. Each log-in begins a family: a chain of refresh tokens that work once, with their access tokens."""

import datetime as dt
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.utils import timezone
from rest_framework_simplejwt import tokens as simplejwt
from rest_framework_simplejwt.authentication import JWTAuthentication
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.exceptions import InvalidToken, TokenBackendError, TokenBackendExpiredToken
from rest_framework_simplejwt.tokens import Token
from structlog.contextvars import bind_contextvars

from accounts.admission import FAMILY_CLAIM, SEAL_CLAIM, admission_by_token, find_admitted
from accounts.models import TokenFamily, User
from accounts.signals import access_revoked, token_made

ALGORITHM = "HS256"
ROLES_CLAIM = "roles"


class KeyRing(TokenBackend):
    """Signs with the first of its keys, and takes what any of them has signed: so an operator can replace a key, and
    nobody is logged out."""

    def __init__(self, key: str, *former: str) -> None:
        super().__init__(ALGORITHM, key)
        self._former = [TokenBackend(ALGORITHM, key) for key in former]

    def decode(self, token: Any, verify: bool = True) -> dict[str, Any]:
        try:
            return super().decode(token, verify)
        except TokenBackendExpiredToken:
            raise
        except TokenBackendError:
            for backend in self._former:
                try:
                    return backend.decode(token, verify)
                except TokenBackendExpiredToken:
                    raise
                except TokenBackendError:
                    continue
            raise


_key_ring = lru_cache(maxsize=4)(KeyRing)


class _Signed:
    def get_token_backend(self) -> TokenBackend:
        return _key_ring(settings.JWT_SECRET_KEY, *settings.JWT_SECRET_KEY_FALLBACKS)


class AccessToken(_Signed, simplejwt.AccessToken):
    pass


class RefreshToken(_Signed, simplejwt.RefreshToken):  # type: ignore[misc]  # its own bases do not agree
    access_token_class = AccessToken


class TokenAuthentication(JWTAuthentication):
    """Lets in whoever has an access token that is good, under the seal of today and of a family that is there."""

    def get_user(self, validated_token: Token) -> User:  # type: ignore[override]  # annotated for users of any kind
        user = find_admitted(admission_by_token(validated_token))
        if user is None:
            raise InvalidToken
        bind_contextvars(user_id=user.pk)
        return user


def begin_family(user: User, *, peer: str = "", agent: str = "") -> RefreshToken:
    """Return the first refresh token of a new family."""
    refresh: RefreshToken = RefreshToken.for_user(user)  # type: ignore[assignment]  # its own class
    family = TokenFamily.objects.create(
        user=user, refresh_jti=refresh["jti"], expires_at=_expiry_of(refresh), peer=peer[:64], agent=agent
    )
    refresh[FAMILY_CLAIM], refresh[SEAL_CLAIM] = str(family.pk), user.seal
    return refresh


def access_token_of(refresh: RefreshToken, user: User) -> Token:
    """Return an access token that says, for programs that show it, what roles and which plan the user has. The site
    never reads that: it asks the database."""
    access: Token = refresh.access_token
    roles = list(user.groups.order_by("name").values_list("name", flat=True))
    access[ROLES_CLAIM] = ["superuser", *roles] if user.is_superuser else roles
    claims: dict[str, Any]
    for _receiver, claims in token_made.send(User, user=user):  # type: ignore[assignment]
        access.payload |= claims
    return access


def renew(refresh: RefreshToken) -> User:
    """Make it the next refresh token of its family, and return whose it is. Raises InvalidToken if it lets nobody in,
    and if it was used before, which ends the family."""
    user = find_admitted(admission_by_token(refresh))
    if user is None:
        raise InvalidToken
    used = refresh["jti"]
    refresh.set_jti()
    refresh.set_exp()
    refresh.set_iat()
    changes: dict[str, Any] = {
        "refresh_jti": refresh["jti"],
        "expires_at": _expiry_of(refresh),
        "used_at": timezone.now(),
    }
    if not TokenFamily.objects.filter(pk=refresh[FAMILY_CLAIM], refresh_jti=used).update(**changes):
        end_family(refresh)
        raise InvalidToken
    return user


def end_family(refresh: RefreshToken) -> None:
    """End a log-in: neither this refresh token nor any other token of the family works any more."""
    admission = admission_by_token(refresh)
    TokenFamily.objects.filter(pk=refresh[FAMILY_CLAIM]).delete()
    access_revoked.send(TokenFamily, user_id=admission.user_id)


def remove_expired_families() -> None:
    """Remove the families whose last refresh token has run out."""
    TokenFamily.objects.filter(expires_at__lt=timezone.now()).delete()


def _expiry_of(refresh: Token) -> dt.datetime:
    return dt.datetime.fromtimestamp(refresh["exp"], dt.UTC)
