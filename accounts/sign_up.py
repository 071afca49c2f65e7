"""Makes accounts, for page and API alike."""

from collections.abc import Callable
from typing import Any

from allauth.account.adapter import get_adapter
from allauth.account.models import EmailAddress
from django.contrib.auth.hashers import make_password
from django.db import IntegrityError, transaction
from django.http import HttpRequest
from django.utils.translation import gettext as _

from accounts import events, limits
from accounts.http import peer_of
from accounts.joining import accept_invitation
from accounts.limits import Act
from accounts.models import User
from accounts.timing import equally_long
from core.errors import Conflict


def hash_new_password(email: str, password: str) -> str:
    """Count a sign-up with this address, and return the password's hash. Raises RateLimited and Unavailable."""
    limits.count(Act.SIGN_UP, account=email)
    return make_password(password)


def sign_up(request: HttpRequest, *, email: str, password_hash: str, invitation: str = "", **profile: Any) -> User:
    """Create an account for somebody who may join, whose address nobody has confirmed. Raises Conflict if another has
    the address."""
    try:
        with transaction.atomic():
            user = User.objects.create(email=email, password=password_hash, **profile)
            EmailAddress.objects.create(user=user, email=user.email, primary=True)
            if invitation:
                accept_invitation(user, invitation)
    except IntegrityError as error:
        raise Conflict(_("That address has an account.")) from error
    events.record("sign_up", peer=peer_of(request), user_id=user.pk)
    return user


def sign_up_by_mail(
    request: HttpRequest, *, email: str, also: Callable[[User], None] | None = None, **account: Any
) -> None:
    """Create an account that waits until its address is confirmed; a mail has the link. If another has the address, the
    mail says that somebody tried. Whoever signs up is told the same, and in the same time. `also` is called in the
    transaction that makes the account."""
    with equally_long():
        try:
            with transaction.atomic():
                user = sign_up(request, email=email, **account)
                if also is not None:
                    also(user)
        except Conflict:
            events.record("sign_up_of_known", peer=peer_of(request), email=email)
            get_adapter().send_account_already_exists_mail(email)
        else:
            EmailAddress.objects.get(user=user).send_confirmation(request, signup=True)
