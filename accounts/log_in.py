"""Checks a password, for page and API alike: within the limits, which come before the hash, and telling nothing about
the address."""

import time
from typing import Any

from allauth.account.models import EmailAddress, get_emailconfirmation_model
from allauth.account.utils import get_next_redirect_url
from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.db.models import Exists, F, OuterRef, QuerySet
from django.http import HttpRequest
from django.urls import Resolver404, resolve
from django.utils.functional import lazy
from django.utils.translation import gettext as _

from accounts import events, limits
from accounts.http import peer_of
from accounts.limits import Act
from accounts.models import User, normalise_email
from accounts.second_factor import has_second_factor
from accounts.timing import pad


def _mismatch() -> str:
    if settings.REQUIRE_VERIFIED_EMAIL:
        return _(
            "The address and the password do not match, or the address is not confirmed yet. Check both, look at your "
            "mail, or reset the password."
        )
    return _("The address and the password do not match. Check both, or reset the password.")


MISMATCH = lazy(_mismatch, str)()
"""What everybody is told whom find_by_password does not find."""


def find_by_password(request: HttpRequest, email: str, password: str) -> User | None:
    """Return whose address and password these are, a suspended person too; None for everybody else.

    An account whose sign-up waits for its address to be confirmed is nobody's yet, except for who comes with the link
    of its mail. Raises RateLimited and Unavailable, with the time to wait.
    """
    peer = peer_of(request)
    limits.count(Act.LOG_IN, peer=peer, account=email)
    begun = time.monotonic()
    user = User.objects.annotate(awaits=Exists(_awaited())).filter(email=normalise_email(email)).first()
    path = get_next_redirect_url(request) or ""
    if user is None:
        make_password(password)  # takes as long as checking one
    elif user.check_password(password) and (not user.awaits or _may_be_awaited(request, user, path)):
        if request.user == user or not has_second_factor(user.pk):  # else there is more to show, and then it is noted
            limits.remember_network(peer=peer, account=email)
        return user
    events.record("log_in_failed", peer=peer, user_id=user.pk if user else None, email=normalise_email(email))
    pad(begun)
    return None


def must_wait(request: HttpRequest, user: User, path: str) -> bool:
    """Return whether somebody who has shown in another way who they are waits for their address to be confirmed, and is
    not on the way to that: `path` is where the log-in leads."""
    return bool(_awaited(user.pk).exists()) and not _may_be_awaited(request, user, path)


def _awaited(user_id: int | None = None) -> QuerySet[Any]:
    """Return the addresses of sign-ups that wait for a confirmation, where that is required: of one user, else of those
    of the statement around it."""
    addresses: QuerySet[Any] = EmailAddress.objects.filter(primary=True, verified=False)
    if not settings.REQUIRE_VERIFIED_EMAIL:
        return addresses.none()
    if user_id is None:
        return addresses.filter(user=OuterRef("pk"), email=OuterRef("email"))
    return addresses.filter(user=user_id, email=F("user__email"))


def _may_be_awaited(request: HttpRequest, user: User, path: str) -> bool:
    """Return whether somebody with the right password may come in before the address is confirmed: they are in already,
    or the log-in leads to the link that only the mailbox has."""
    if request.user == user:
        return True
    try:
        found = resolve(path.partition("?")[0])
    except Resolver404:
        return False
    if found.url_name != "account_confirm_email":
        return False
    confirmation = get_emailconfirmation_model().from_key(found.kwargs["key"])
    return bool(confirmation and confirmation.email_address.user_id == user.pk)
