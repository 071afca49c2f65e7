"""The API's tokens. Each log-in begins a family: a chain of refresh tokens that work once, with their access tokens."""

import datetime as dt
from typing import Any

from django.utils import timezone
from rest_framework_simplejwt.authentication import JWTAuthentication
from rest_framework_simplejwt.exceptions import InvalidToken
from rest_framework_simplejwt.tokens import RefreshToken, Token

from accounts.admission import FAMILY_CLAIM, SEAL_CLAIM, admission_by_token, find_admitted
from accounts.models import TokenFamily, User
from accounts.signals import access_revoked


class TokenAuthentication(JWTAuthentication):
    """Lets in whoever has an access token that is good, under the seal of today and of a family that is there."""

    def get_user(self, validated_token: Token) -> User:  # type: ignore[override]  # annotated for users of any kind
        user = find_admitted(admission_by_token(validated_token))
        if user is None:
            raise InvalidToken
        return user


def begin_family(user: User) -> RefreshToken:
    """Return the first refresh token of a new family."""
    refresh = RefreshToken.for_user(user)
    family = TokenFamily.objects.create(user=user, refresh_jti=refresh["jti"], expires_at=_expiry_of(refresh))
    refresh[FAMILY_CLAIM], refresh[SEAL_CLAIM] = str(family.pk), user.seal
    return refresh


def renew(refresh: RefreshToken) -> None:
    """Make it the next refresh token of its family. Raises InvalidToken if it lets nobody in, and if it was used
    before, which ends the family."""
    if find_admitted(admission_by_token(refresh)) is None:
        raise InvalidToken
    used = refresh["jti"]
    refresh.set_jti()
    refresh.set_exp()
    refresh.set_iat()
    changes: dict[str, Any] = {"refresh_jti": refresh["jti"], "expires_at": _expiry_of(refresh)}
    if not TokenFamily.objects.filter(pk=refresh[FAMILY_CLAIM], refresh_jti=used).update(**changes):
        end_family(refresh)
        raise InvalidToken


def end_family(refresh: RefreshToken) -> None:
    """End a log-in: neither this refresh token nor any other token of the family works any more."""
    admission = admission_by_token(refresh)
    TokenFamily.objects.filter(pk=refresh[FAMILY_CLAIM]).delete()
    access_revoked.send(TokenFamily, user_id=admission.user_id)


def remove_expired_families() -> None:
    """Remove the families whose last refresh token has run out."""
    TokenFamily.objects.filter(expires_at__lt=timezone.now()).delete()


def _expiry_of(refresh: RefreshToken) -> dt.datetime:
    return dt.datetime.fromtimestamp(refresh["exp"], dt.UTC)
