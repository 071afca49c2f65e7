"""The API of sign-up, log-in and the user's own account."""

from django.conf import settings
from django.db import IntegrityError
from django.utils.translation import gettext as _
from rest_framework import permissions, status
from rest_framework.decorators import api_view, authentication_classes, permission_classes, throttle_classes
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import AnonRateThrottle
from rest_framework_simplejwt.exceptions import InvalidToken, TokenError
from rest_framework_simplejwt.tokens import RefreshToken

from accounts.api.serializers import LogInSerializer, MeSerializer, RefreshSerializer, RegisterSerializer
from accounts.models import User
from accounts.tokens import begin_family, end_family, renew
from core.errors import Conflict


class SignUpThrottle(AnonRateThrottle):
    scope = "sign_up"

    def get_rate(self) -> str:
        return f"{settings.SIGN_UPS_PER_HOUR}/hour"


class LogInThrottle(AnonRateThrottle):
    """Slows down guessing from one address; a person who mistypes does not reach it."""

    scope = "log_in"
    rate = "30/minute"


def tokens_for(user: User) -> dict[str, str]:
    refresh = begin_family(user)
    return {"access": str(refresh.access_token), "refresh": str(refresh)}


@api_view(["POST"])
@authentication_classes([])
@permission_classes([permissions.AllowAny])
@throttle_classes([SignUpThrottle])
def register(request: Request) -> Response:
    """Create an account and log it in. 201 with `user`, `access` and `refresh`."""
    serializer = RegisterSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    try:
        user = serializer.save()
    except IntegrityError as error:  # the same address, signed up twice at once
        raise Conflict(_("That address has an account.")) from error
    return Response({"user": MeSerializer(user).data, **tokens_for(user)}, status=status.HTTP_201_CREATED)


@api_view(["POST"])
@authentication_classes([])
@permission_classes([permissions.AllowAny])
@throttle_classes([LogInThrottle])
def login(request: Request) -> Response:
    """Exchange e-mail and password for `access` and `refresh`."""
    serializer = LogInSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    return Response(serializer.validated_data)


@api_view(["POST"])
@authentication_classes([])
@permission_classes([permissions.AllowAny])
def refresh(request: Request) -> Response:
    """Exchange a refresh token for a new pair. A refresh token works once: used again, it ends its family."""
    serializer = RefreshSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    try:
        token = RefreshToken(serializer.validated_data["refresh"])
    except TokenError as error:
        raise InvalidToken from error
    renew(token)
    return Response({"access": str(token.access_token), "refresh": str(token)})


@api_view(["POST"])
@authentication_classes([])
@permission_classes([permissions.AllowAny])
def logout(request: Request) -> Response:
    """End a refresh token and all that came of the same log-in. 204, also when it was no longer valid: the person is
    out either way."""
    serializer = RefreshSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    try:
        end_family(RefreshToken(serializer.validated_data["refresh"]))
    except (TokenError, InvalidToken):
        pass
    return Response(status=status.HTTP_204_NO_CONTENT)


@api_view(["POST"])
def logout_everywhere(request: Request) -> Response:
    """End every session and token of yours, these too, and whatever is open with them. 204."""
    user = request.user
    assert isinstance(user, User)
    user.end_access()
    return Response(status=status.HTTP_204_NO_CONTENT)


@api_view(["GET", "PATCH"])
def me(request: Request) -> Response:
    """Your account; PATCH changes `name`, `locale`, `time_zone` and `theme`."""
    user = request.user
    assert isinstance(user, User)
    if request.method == "PATCH":
        serializer = MeSerializer(user, data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        serializer.save()
    return Response(MeSerializer(user).data)
