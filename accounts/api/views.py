"""The API of sign-up, log-in and the user's own account. It is open on every plan, also on one without the API."""

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from rest_framework import permissions, serializers, status
from rest_framework.decorators import api_view, authentication_classes, permission_classes
from rest_framework.exceptions import APIException, AuthenticationFailed, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework_simplejwt.exceptions import InvalidToken, TokenError

from accounts import events, limits
from accounts.api.serializers import (
    CloseSerializer,
    ClosingBody,
    LogInSerializer,
    MailedBody,
    MeSerializer,
    RefreshSerializer,
    RegisteredSerializer,
    RegisterSerializer,
    TokensBody,
)
from accounts.devices import agent_of, tell_of_new_device
from accounts.encryption import CannotDecrypt
from accounts.http import peer_of
from accounts.joining import DisposableAddress, InvitationNeeded, SignUpClosed, check_may_join
from accounts.leaving import LastSuperuser, begin_leaving, check_not_leaving
from accounts.limits import Act
from accounts.log_in import MISMATCH, find_by_password
from accounts.models import User
from accounts.second_factor import WRONG_CODE, find_by_code, has_second_factor
from accounts.sign_up import hash_new_password, sign_up, sign_up_by_mail
from accounts.tokens import RefreshToken, access_token_of, begin_family, end_family, renew
from core.errors import DomainError
from core.operations import Operation, described

TOKENS_EXAMPLE = {"access": "eyJhbGciOi…", "refresh": "eyJhbGciOi…"}


class NoPassword(DomainError):
    """Who logs in with an account elsewhere shows who they are on the pages."""

    code = "no_password"
    status = 403
    message = gettext_lazy("This account has no password. Close it on the pages of this site.")


def tokens_for(user: User, request: Request | None = None) -> TokensBody:
    """Log somebody in; `request` says from where."""
    whence = {} if request is None else {"peer": peer_of(request), "agent": agent_of(request._request)}
    refresh = begin_family(user, **whence)
    User.objects.filter(pk=user.pk).update(last_login=timezone.now())  # the next in a browser is told (receivers.py)
    return {"access": str(access_token_of(refresh, user)), "refresh": str(refresh)}


@described(
    "Accounts",
    POST=Operation(
        "register",
        takes=RegisterSerializer,
        answers={201: RegisteredSerializer, 202: MailedBody},
        refuses=(SignUpClosed, InvitationNeeded, DisposableAddress),
        example={"email": "ana@example.com", "password": "a long sentence nobody guesses", "locale": "en"},
    ),
)
@api_view(["POST"])
@authentication_classes([])
@permission_classes([permissions.AllowAny])
def register(request: Request) -> Response:
    """Create an account and log it in. 201 with `user`, `access` and `refresh`.

    Where addresses must be confirmed it is a 202 without them, whether the address has an account or not, and a mail
    says the rest.
    """
    limits.count(Act.SIGN_UP, peer=peer_of(request))
    serializer = RegisterSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    account = serializer.validated_data
    check_may_join(account["email"], account["invitation"])
    account["password_hash"] = hash_new_password(account["email"], account.pop("password"))
    if settings.REQUIRE_VERIFIED_EMAIL:
        sign_up_by_mail(request._request, **account)
        return Response(
            {"detail": _("We have sent you a mail with what to do next. It arrives within a few minutes.")},
            status=status.HTTP_202_ACCEPTED,
        )
    user = sign_up(request._request, **account)
    limits.remember_network(peer=peer_of(request), account=user.email)
    return Response({"user": MeSerializer(user).data, **tokens_for(user, request)}, status=status.HTTP_201_CREATED)


@described(
    "Accounts",
    POST=Operation(
        "logIn",
        takes=LogInSerializer,
        answers={200: TokensBody},
        refuses=(
            (401, "no_active_account"),
            (401, "second_factor_required"),
            (401, "second_factor_wrong"),
            CannotDecrypt,
        ),
        example={"email": "ana@example.com", "password": "a long sentence nobody guesses"},
        answer_example=TOKENS_EXAMPLE,
    ),
)
@api_view(["POST"])
@authentication_classes([])
@permission_classes([permissions.AllowAny])
def login(request: Request) -> Response:
    """Exchange e-mail and password, and `code` where the account has a second factor, for `access` and `refresh`."""
    serializer = LogInSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    given = serializer.validated_data
    is_known = limits.knows_network(peer=peer_of(request), account=given["email"])
    user = find_by_password(request._request, given["email"], given["password"])
    if user is None or not user.is_active:
        raise AuthenticationFailed(str(MISMATCH), code="no_active_account")
    if has_second_factor(user.pk):
        _check_code(user, given["code"], peer_of(request), refused_with=status.HTTP_401_UNAUTHORIZED)
        limits.remember_network(peer=peer_of(request), account=user.email)
    check_not_leaving(user)
    events.record("log_in", peer=peer_of(request), user_id=user.pk)
    if not is_known and user.last_login is not None:  # the first of all is no news
        tell_of_new_device(request._request, user)
    return Response(tokens_for(user, request))


@described(
    "Accounts",
    POST=Operation(
        "renewTokens",
        takes=RefreshSerializer,
        answers={200: TokensBody},
        refuses=((401, "token_not_valid"),),
        answer_example=TOKENS_EXAMPLE,
    ),
)
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
    user = renew(token)
    return Response({"access": str(access_token_of(token, user)), "refresh": str(token)})


@described("Accounts", POST=Operation("logOut", takes=RefreshSerializer, answers={204: None}))
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


@described("Accounts", POST=Operation("logOutEverywhere", answers={204: None}))
@api_view(["POST"])
@permission_classes([permissions.IsAuthenticated])
def logout_everywhere(request: Request) -> Response:
    """End every session and token of yours, these too, and whatever is open with them. 204."""
    user = request.user
    assert isinstance(user, User)
    user.end_access()
    return Response(status=status.HTTP_204_NO_CONTENT)


@described(
    "Accounts",
    GET=Operation("getMe", "Your account.", answers={200: MeSerializer}),
    PATCH=Operation("changeMe", "Change your account.", takes=MeSerializer, answers={200: MeSerializer}),
    DELETE=Operation(
        "closeAccount",
        "Close your account.",
        takes=CloseSerializer,
        answers={202: ClosingBody},
        refuses=(
            LastSuperuser,
            NoPassword,
            (403, "second_factor_required"),
            (403, "second_factor_wrong"),
            CannotDecrypt,
        ),
    ),
)
@api_view(["GET", "PATCH", "DELETE"])
@permission_classes([permissions.IsAuthenticated])
def me(request: Request) -> Response:
    """Your account; PATCH changes `name`, `locale`, `time_zone`, `theme` and `keep_history_days`.

    DELETE closes it, with your `password`, and `code` where the account has a second factor: 202 with `closes_at`,
    until when it can be kept on the pages of the site.
    """
    user = request.user
    assert isinstance(user, User)
    if request.method == "DELETE":
        asked = CloseSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        if not user.has_usable_password():
            raise NoPassword
        if find_by_password(request._request, user.email, asked.validated_data["password"]) != user:
            raise serializers.ValidationError({"password": [_("That is not your password.")]})
        if has_second_factor(user.pk):
            _check_code(user, asked.validated_data["code"], peer_of(request), refused_with=status.HTTP_403_FORBIDDEN)
        closes_at = begin_leaving(user, peer=peer_of(request))
        return Response({"closes_at": closes_at}, status=status.HTTP_202_ACCEPTED)
    if request.method == "PATCH":
        serializer = MeSerializer(user, data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        serializer.save()
    return Response(MeSerializer(user).data)


def _check_code(user: User, code: str, peer: str, *, refused_with: int) -> None:
    """Raise a refusal with this status unless the code is right: a 401 would have a client throw its token away."""
    if not code:
        sentence = _("This account has a second factor: send the code of its app, or a recovery code, as `code`.")
        raise _refusal(refused_with, sentence, code="second_factor_required")
    found = find_by_code(user, code, peer=peer)
    if found is None:
        raise _refusal(refused_with, str(WRONG_CODE), code="second_factor_wrong")
    found.record_usage()


def _refusal(refused_with: int, sentence: str, *, code: str) -> APIException:
    return (AuthenticationFailed if refused_with == status.HTTP_401_UNAUTHORIZED else PermissionDenied)(
        sentence, code=code
    )
