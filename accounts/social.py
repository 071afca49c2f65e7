"""Accounts elsewhere, at Google, GitHub, Microsoft or an OpenID Connect server, that let their owner in here: what is
believed of what a provider says, and how one is connected and removed (docs/adr/0029-social-log-in.md).

Whose account it is, is told by the provider and its id of the person, and by nothing else: no address links anything.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from allauth.account.adapter import get_adapter
from allauth.account.internal.emailkit import valid_email_or_none
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialLogin
from django.contrib.auth.hashers import make_password
from django.db import IntegrityError, transaction
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from accounts import events
from accounts.http import peer_of
from accounts.models import User, normalise_email
from accounts.second_factor import check_may_add
from accounts.sign_up import sign_up, sign_up_by_mail
from accounts.social_providers import find_social_provider, list_social_providers
from core.errors import Conflict, DomainError, NotFound

NAME_CHARACTERS = 200
FRESH_SECONDS = 300
"""How long ago a person may have shown their provider who they are, where that says when it was."""


class NotBelieved(Exception):
    """What a provider sent contradicts itself, or lacks what it must have."""


class ConnectedElsewhere(DomainError):
    code = "connected_elsewhere"
    status = 409
    message = _("That account already lets somebody else in here. Disconnect it there first.")


class LastWayIn(DomainError):
    code = "last_way_in"
    status = 409
    message = _("This is the only way in that you have. Choose a password or add a passkey first.")


@dataclass(frozen=True, slots=True)
class ConnectedAccount:
    """An account elsewhere that lets a member in; `name` is what it is called there. `works` says whether its provider
    is switched on."""

    row: SocialAccount
    provider: str
    name: str
    works: bool


def believe(sociallogin: SocialLogin) -> None:
    """Take from what a provider said what is kept, and forget the rest: the id, a name to show, and one address, which
    counts as confirmed only where the provider says in so many words that it has made sure. Raises NotBelieved."""
    account, raw = sociallogin.account, sociallogin.account.extra_data
    if sociallogin.provider.id == "openid_connect":
        account.uid = _subject_of(raw)
        sociallogin.shown_at = raw["id_token"].get("auth_time")
    name = sociallogin.provider.wrap_account(account).to_str()
    address = _confirmed_by(sociallogin.provider.id, raw, sociallogin.email_addresses)
    said = address or next((one.email for one in sociallogin.email_addresses), "")
    said = normalise_email(valid_email_or_none(said) or "")
    # K, the sign for kelvin, is a k in lower case: whose mailbox has one has not the mailbox that would be theirs here.
    is_sure = bool(address) and address.rpartition("@")[0].isascii()
    sociallogin.email_addresses = [EmailAddress(email=said, verified=is_sure, primary=True)] if said else []
    account.extra_data = {"name": storable(name)[:NAME_CHARACTERS]}


def storable(text: str) -> str:
    """Return the text without what JSON can say and no database takes: NUL, and halves of characters."""
    return text.replace("\0", "").encode(errors="ignore").decode()


def confirmed_address(sociallogin: SocialLogin) -> str:
    """Return the address that the provider has made sure of; empty where there is none."""
    return next((one.email for one in sociallogin.email_addresses if one.verified), "")


def suggested_address(sociallogin: SocialLogin) -> str:
    """Return the address that the provider told, whoever's it is; empty where it told none."""
    return next((one.email for one in sociallogin.email_addresses), "")


def was_shown_lately(sociallogin: SocialLogin) -> bool:
    """Return whether the person has shown the provider just now who they are, as far as it says when that was."""
    shown_at = getattr(sociallogin, "shown_at", None)
    return shown_at is None or (isinstance(shown_at, int) and time.time() - shown_at < FRESH_SECONDS)


def list_connections(user: User) -> list[ConnectedAccount]:
    names = {one.id: one.name for one in list_social_providers()}
    return [
        ConnectedAccount(
            row, names.get(row.provider, row.provider), str(row.extra_data.get("name", "")), row.provider in names
        )
        for row in SocialAccount.objects.filter(user=user).order_by("date_joined")
    ]


def join(request: HttpRequest, sociallogin: SocialLogin, *, email: str, **account: Any) -> User:
    """Make an account without a password that this account elsewhere lets into. Raises Conflict where another has the
    address, or the account elsewhere lets somebody in already."""
    try:
        with transaction.atomic():
            user = sign_up(request, email=email, password_hash=make_password(None), **account)
            if email == confirmed_address(sociallogin):
                EmailAddress.objects.filter(user=user, email=email).update(verified=True)
            _keep(sociallogin, user)
    except IntegrityError as error:
        raise Conflict from error
    return user


def join_by_mail(request: HttpRequest, sociallogin: SocialLogin, *, email: str, **account: Any) -> None:
    """The same, where the address is still to be confirmed: see sign_up_by_mail."""
    sign_up_by_mail(
        request,
        email=email,
        password_hash=make_password(None),
        also=lambda user: _keep(sociallogin, user),
        **account,
    )


def connect(request: HttpRequest, user: User, sociallogin: SocialLogin) -> None:
    """Let this account elsewhere into the account of a member. Raises AddressUnconfirmed, ConnectedElsewhere, and
    NotFound where whatever let the member in has ended meanwhile, or they are leaving.

    allauth would save the whole user, as they were when they went to the provider, and so undo a suspension or a new
    password.
    """
    check_may_add(user)
    try:
        with transaction.atomic():
            theirs = User.objects.select_for_update().filter(pk=user.pk, seal=user.seal, is_active=True)
            if theirs.filter(closes_at=None).first() is None:
                raise NotFound
            known = SocialAccount.objects.filter(provider=sociallogin.account.provider, uid=sociallogin.account.uid)
            if (owner_id := known.values_list("user_id", flat=True).first()) is not None:
                if owner_id != user.pk:
                    raise ConnectedElsewhere
                return
            _keep(sociallogin, user)
    except IntegrityError as error:
        raise ConnectedElsewhere from error
    _tell(request, user, sociallogin.account, "added")


def disconnect(request: HttpRequest, user: User, account_id: int) -> None:
    """Have an account elsewhere let nobody in any more. Raises NotFound, and LastWayIn."""
    with transaction.atomic():
        row = check_leaves_a_way_in(user, connection_id=account_id)
        if row is None:
            raise NotFound
        row.delete()
    _tell(request, user, row, "removed")


def check_leaves_a_way_in(
    user: User, *, connection_id: int | None = None, passkey_id: int | None = None
) -> SocialAccount | None:
    """Raise LastWayIn if the member could not log in without one of these; return the connection, if it is theirs.
    Called in the transaction that removes it: of two who remove the last two, one waits."""
    locked = User.objects.select_for_update().get(pk=user.pk)
    connections = SocialAccount.objects.filter(user=user)
    going = connections.filter(pk=connection_id).first()
    others = connections.exclude(pk=connection_id).filter(provider__in=[one.id for one in list_social_providers()])
    passkeys = Authenticator.objects.filter(user=user, type=Authenticator.Type.WEBAUTHN).exclude(pk=passkey_id)
    if not (locked.has_usable_password() or others.exists() or passkeys.exists()):
        raise LastWayIn
    return going


def _keep(sociallogin: SocialLogin, user: User) -> None:
    account = sociallogin.account
    account.user = user
    account.save(force_insert=True)
    sociallogin.user = user


def _tell(request: HttpRequest, user: User, account: SocialAccount, done: str) -> None:
    events.record(f"social_account_{done}", peer=peer_of(request), user_id=user.pk, provider=account.provider)
    provider = find_social_provider(account.provider)
    context = {"provider": provider.name if provider else account.provider, "name": account.extra_data.get("name", "")}
    get_adapter(request).send_notification_mail(f"socialaccount/email/account_{done}", user, context)


def _subject_of(raw: Mapping[str, Any]) -> str:
    """Return one name for the person at an OpenID server: of its issuer and its id of them. With another server's
    address in the settings, nobody there is somebody here because both were called `1`. What `userinfo` says must be of
    the same person (OpenID Connect Core, 5.3.2)."""
    token, more = raw.get("id_token"), raw.get("userinfo")
    if not isinstance(token, dict) or not token.get("sub") or not isinstance(token.get("iss"), str):
        raise NotBelieved("There is no ID token, or it is of nobody.")
    if more is not None and (not isinstance(more, dict) or more.get("sub") != token["sub"]):
        raise NotBelieved("The ID token and userinfo are of different people.")
    return hashlib.sha256(f"{token['iss']} {token['sub']}".encode()).hexdigest()


def _confirmed_by(kind: str, raw: Mapping[str, Any], told: list[EmailAddress]) -> str:
    """Return the address a provider has made sure of. Microsoft's is whatever somebody's administrator wrote there;
    `"false"` is no `false`; and Google speaks for mailboxes that it has, and for others as they were at the sign-up
    there (https://developers.google.com/identity/gsi/web/guides/verify-google-id-token)."""
    if kind == "github":
        return next((one.email for one in told if one.primary is True and one.verified is True), "")
    if kind == "openid_connect":
        raw = raw.get("userinfo") or raw["id_token"]
    says_so = raw.get("email_verified", raw.get("verified_email") if kind == "google" else None)
    address = str(raw.get("email") or "") if kind in ("google", "openid_connect") and says_so is True else ""
    domain = address.rpartition("@")[2].lower()
    return "" if kind == "google" and domain not in ("gmail.com", str(raw.get("hd", "")).lower()) else address
