"""What follows from a log-in, a reset, and a change of password, address or second factor on the pages: a log line, and
after a reset the account is its mailbox's."""

from typing import Any

from allauth.account import signals
from allauth.account.internal.flows.login import record_authentication
from allauth.account.models import EmailAddress
from allauth.mfa import signals as mfa_signals
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.signals import user_logged_in
from django.db import transaction
from django.db.models import Q
from django.dispatch import receiver
from django.http import HttpRequest

from accounts import devices, events, limits
from accounts.http import peer_of
from accounts.joining import forget_invitation
from accounts.models import User
from accounts.second_factor import FACTORS, use_code


@receiver(user_logged_in)
def note_log_in(request: HttpRequest, user: User, **_signal: Any) -> None:
    """Called before Django notes the log-in: the first of all is no news to its owner."""
    events.record("log_in", peer=peer_of(request), user_id=user.pk)
    limits.remember_network(peer=peer_of(request), account=user.email)
    is_first = user.last_login is None and not user.token_families.exists()
    if not is_first and not devices.is_known(request, user):
        devices.tell_of_new_device(request, user)
    devices.remember_browser(request, user)
    devices.note_session(request, user)
    devices.forget_ended(user)


@receiver(signals.password_reset)
def hand_over_account(request: HttpRequest, user: User, **_signal: Any) -> None:
    """Whoever has the mailbox has the account, and nobody else: the link was in a mail to its address. That holds where
    another address was confirmed, or the row of one was left to somebody else, at the same moment or before. Accounts
    elsewhere let nobody in any more, either: who signed up with this address, or got in, may have connected theirs."""
    with transaction.atomic():
        removed, _rows = SocialAccount.objects.filter(user=user).delete()
        User.objects.filter(pk=user.pk).update(email=user.email)
        EmailAddress.objects.filter(Q(user=user) ^ Q(email=user.email)).delete()
        EmailAddress.objects.update_or_create(user=user, email=user.email, defaults={"verified": True, "primary": True})
    limits.remember_network(peer=peer_of(request), account=user.email)
    if removed:
        events.record("social_account_removed", peer=peer_of(request), user_id=user.pk, provider="all")
    events.record("password_reset", peer=peer_of(request), user_id=user.pk)


@receiver(signals.password_changed)
def note_password_change(request: HttpRequest, user: User, **_signal: Any) -> None:
    devices.remember_browser(request, user)
    events.record("password_changed", peer=peer_of(request), user_id=user.pk)


@receiver(signals.password_set)
def note_first_password(request: HttpRequest, user: User, **_signal: Any) -> None:
    devices.remember_browser(request, user)
    events.record("password_set", peer=peer_of(request), user_id=user.pk)


@receiver(signals.email_changed)
def note_email_change(
    request: HttpRequest, user: User, from_email_address: EmailAddress | None, **_signal: Any
) -> None:
    if from_email_address is not None:
        forget_invitation(from_email_address.email)
    events.record("email_changed", peer=peer_of(request), user_id=user.pk)


@receiver(signals.email_confirmed)
def note_confirmation(request: HttpRequest, email_address: EmailAddress, **_signal: Any) -> None:
    events.record("email_confirmed", peer=peer_of(request), user_id=email_address.user_id)


@receiver(mfa_signals.authenticator_added)
def note_second_factor(request: HttpRequest, user: User, authenticator: Authenticator, **_signal: Any) -> None:
    """The code that showed that the app is set up is used up with that, and has shown it in this session: of who has no
    second factor yet. Whoever has a session and the password adds no other in its place. And whoever got in without it
    is out, or they would take it away again, with the password."""
    if authenticator.type == Authenticator.Type.TOTP:
        use_code(user.pk, request.POST.get("code", ""))
    others = Authenticator.objects.filter(user=user, type__in=FACTORS).exclude(pk=authenticator.pk)
    if authenticator.type in FACTORS and not others.exists():  # else the others are to be shown
        user.end_access()
        update_session_auth_hash(request, user)
        record_authentication(request, user, "mfa", id=authenticator.pk, type=authenticator.type)
    events.record("second_factor_added", peer=peer_of(request), user_id=user.pk, kind=authenticator.type)


@receiver(mfa_signals.authenticator_removed)
def note_second_factor_removal(request: HttpRequest, user: User, authenticator: Authenticator, **_signal: Any) -> None:
    events.record("second_factor_removed", peer=peer_of(request), user_id=user.pk, kind=authenticator.type)


@receiver(mfa_signals.authenticator_reset)
def note_recovery_codes(request: HttpRequest, user: User, **_signal: Any) -> None:
    events.record("recovery_codes_made", peer=peer_of(request), user_id=user.pk)
