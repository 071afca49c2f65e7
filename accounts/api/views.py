"""Sign up, log in, and your own account."""

from django.conf import settings
from django.db import IntegrityError
from django.utils.translation import gettext as _
from rest_framework import permissions, status
from rest_framework.decorators import api_view, authentication_classes, permission_classes, throttle_classes
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import AnonRateThrottle
from rest_framework_simplejwt.authentication import JWTAuthentication
from rest_framework_simplejwt.exceptions import InvalidToken, TokenError
from rest_framework_simplejwt.serializers import TokenObtainPairSerializer, TokenRefreshSerializer
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken

from accounts.api.serializers import MeSerializer, RefreshSerializer, RegisterSerializer
from accounts.errors import Conflict
from accounts.models import User


class SignUpThrottle(AnonRateThrottle):
    scope = "sign_up"

    def get_rate(self) -> str:
        return f"{settings.SIGN_UPS_PER_HOUR}/hour"


class LogInThrottle(AnonRateThrottle):
    """Slows down guessing from one address; a person who mistypes never meets it."""

    scope = "log_in"
    rate = "30/minute"


def tokens_for(user: User) -> dict[str, str]:
    refresh = RefreshToken.for_user(user)
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
    serializer = TokenObtainPairSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    return Response(serializer.validated_data)


@api_view(["POST"])
@authentication_classes([])
@permission_classes([permissions.AllowAny])
def refresh(request: Request) -> Response:
    """Exchange a refresh token for a new pair; the old one is blacklisted."""
    serializer = TokenRefreshSerializer(data=request.data)
    try:
        serializer.is_valid(raise_exception=True)
        refreshed: dict[str, str] = serializer.validated_data
        JWTAuthentication().get_user(AccessToken(refreshed["access"]))  # type: ignore[arg-type]  # its text, too  # not since the password was changed
    except (TokenError, User.DoesNotExist) as error:
        raise InvalidToken from error
    return Response(refreshed)


@api_view(["POST"])
@authentication_classes([])
@permission_classes([permissions.AllowAny])
def logout(request: Request) -> Response:
    """Blacklist a refresh token. 204, also when it was no longer valid: the person is out either way."""
    serializer = RefreshSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    try:
        RefreshToken(serializer.validated_data["refresh"]).blacklist()
    except TokenError:
        pass
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
