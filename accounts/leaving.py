"""Somebody closes their account: for ACCOUNT_CLOSE_DAYS they can keep it, and do nothing else; then it is deleted, and
closure.py erases what is left (docs/adr/0027-leaving.md).

`User.closes_at` is all there is of it, and each step is one conditional write of it. So whatever a process dies on, the
sweep goes on with, and of an undo and the sweep one wins.
"""

import datetime as dt

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import transaction
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.translation import gettext_lazy as _
from rest_framework import authentication
from rest_framework.request import Request

from accounts import events
from accounts.models import TokenFamily, User, new_seal
from accounts.signals import account_leaving
from core.errors import DomainError, NotFound
from core.mail import send_or_queue
from core.sweeps import PAGE_SIZE, guard, iterate_pages, while_time

SWEEP_SECONDS = 40.0


class AccountClosing(DomainError):
    code = "account_closing"
    status = 403
    message = _("This account is being closed. Log in on the pages of this site to keep it.")


class LastSuperuser(DomainError):
    code = "last_superuser"
    status = 409
    message = _("Nobody else may do everything on this site. Make somebody else a superuser first.")


class SessionAuthentication(authentication.SessionAuthentication):
    """Lets no page of somebody whose account is being closed use the API."""

    def authenticate(self, request: HttpRequest | Request) -> tuple[User, None] | None:
        """Return who is logged in. Raises AccountClosing."""
        found: tuple[User, None] | None = super().authenticate(request)  # type: ignore[arg-type]
        if found is not None:
            check_not_leaving(found[0])
        return found


def check_not_leaving(user: User) -> None:
    """Raise AccountClosing if the account is being closed."""
    if user.closes_at is not None:
        raise AccountClosing


def check_another_superuser(user: User) -> None:
    """Raise LastSuperuser if the user is one and nobody else is who stays. Called in the transaction that ends it. They
    are locked in their order: of two who leave, or end each other's rights, at once, one waits, and sees what the other
    has done."""
    if not user.is_superuser:
        return
    staying = User.objects.filter(is_superuser=True, is_active=True, closes_at=None).order_by("pk")
    if not set(staying.select_for_update().values_list("pk", flat=True)) - {user.pk}:
        raise LastSuperuser


def begin_leaving(user: User, *, peer: str) -> dt.datetime:
    """Have the account closed, and end whatever lets somebody in; return when. They are told by mail.

    Raises LastSuperuser, AccountClosing where it is being closed already, and NotFound where whatever let the user in
    has ended meanwhile.
    """
    closes_at = timezone.now() + dt.timedelta(days=settings.ACCOUNT_CLOSE_DAYS)
    with transaction.atomic():
        check_another_superuser(user)
        theirs = User.objects.filter(pk=user.pk, seal=user.seal, is_active=True)
        if not theirs.filter(closes_at=None).update(closes_at=closes_at, farewell_due_at=timezone.now()):
            raise AccountClosing if theirs.exists() else NotFound
        user.closes_at = closes_at
        user.end_access(with_keys=True)
        TokenFamily.objects.filter(user=user).delete()
        account_leaving.send(User, user_id=user.pk)
        transaction.on_commit(lambda: send_farewell(user.pk), robust=True)
    events.record("account_leaving", peer=peer, user_id=user.pk)
    return closes_at


def keep_account(user: User, *, peer: str) -> None:
    """Take it back. What was cancelled and revoked stays so. Raises NotFound where the account is not there any more,
    or who is logged in is so no more."""
    theirs = User.objects.filter(pk=user.pk, seal=user.seal, is_active=True)
    if theirs.filter(closes_at__isnull=False).update(closes_at=None, farewell_due_at=timezone.now()):
        events.record("account_kept", peer=peer, user_id=user.pk)
        transaction.on_commit(lambda: send_farewell(user.pk), robust=True)
    elif not theirs.exists():
        raise NotFound


def send_farewell(user_id: int) -> None:
    """Send the mail that is due: on which day the account will be closed, or that it is kept. Whoever dies over it has
    it sent once more."""
    user = User.objects.filter(pk=user_id, farewell_due_at__isnull=False).first()
    if user is None:
        return
    with translation.override(user.locale), timezone.override(user.zone):
        context = {
            "closes_at": user.closes_at,
            "site_name": settings.SITE_NAME,
            "url": settings.SITE_URL + reverse("close_account" if user.closes_at else "profile"),
        }
        template = "accounts/mail/closing.txt" if user.closes_at else "accounts/mail/kept.txt"
        text = render_to_string(template, context).strip()
    subject, _line, body = text.partition("\n")
    send_or_queue(EmailMessage(subject.strip(), body.strip() + "\n", settings.DEFAULT_FROM_EMAIL, [user.email]))
    User.objects.filter(pk=user.pk, farewell_due_at=user.farewell_due_at).update(farewell_due_at=None)


def finish_leaving() -> None:
    """Delete whose time is over, send what mail is due, and see that nothing has begun that would go on."""
    now = timezone.now()
    due = User.objects.filter(closes_at__lte=now).order_by("closes_at")
    for user in while_time(due[:PAGE_SIZE], SWEEP_SECONDS):
        with guard("leaving", user_id=user.pk):
            delete_if_due(user)
    untold = User.objects.filter(farewell_due_at__lt=now - dt.timedelta(minutes=1)).values_list("pk", flat=True)
    for user_id in untold[:PAGE_SIZE]:
        with guard("farewell", user_id=user_id):
            send_farewell(user_id)
    for page in iterate_pages(User.objects.filter(closes_at__gt=now)):
        for user in page:
            with guard("leaving", user_id=user.pk):
                stop_what_goes_on(user)


def stop_what_goes_on(user: User) -> None:
    """Tell the apps once more that somebody is about to leave, unless they have just changed their mind: they may take
    up again what would be stopped."""
    with transaction.atomic():
        if User.objects.filter(pk=user.pk, closes_at=user.closes_at).update(closes_at=user.closes_at):
            account_leaving.send(User, user_id=user.pk)


def delete_if_due(user: User) -> None:
    """Delete the user, unless they keep their account: whose UPDATE finds the row as it was, wins, and until the
    transaction is over the other waits."""
    with transaction.atomic():
        if User.objects.filter(pk=user.pk, closes_at__lte=timezone.now()).update(seal=new_seal()):
            user.delete()
