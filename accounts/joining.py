"""Who may sign up: everybody, whoever is invited or has an address of certain domains, whoever is invited, or nobody
(SIGN_UP). An invitation is for one address, by a link that works once."""

import datetime as dt
import hashlib
import secrets
from contextlib import suppress
from enum import StrEnum
from urllib.parse import urlencode

from disposable_email_domains import blocklist
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.mail import EmailMessage
from django.db import IntegrityError
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.encoding import punycode
from django.utils.translation import gettext_lazy as _

from accounts.models import Invitation, User, normalise_email
from core.errors import Conflict, DomainError
from core.mail import send_or_queue

INVITED_FOR = dt.timedelta(days=14)


class SignUp(StrEnum):
    """The values of the setting SIGN_UP."""

    OPEN = "open"
    DOMAINS = "domains"
    INVITATION = "invitation"
    CLOSED = "closed"


class SignUpClosed(DomainError):
    code = "sign_up_closed"
    status = 403
    message = _("This site takes in nobody new at the moment.")


class InvitationNeeded(DomainError):
    code = "invitation_needed"
    status = 403
    message = _("One joins this site by invitation. Open the link in the mail that invites you, with the same address.")


class DisposableAddress(DomainError):
    code = "disposable_address"
    message = _("That address is of a service for throw-away mail. Please use one that is yours.")


def check_may_join(email: str, invitation: str = "") -> None:
    """Raise SignUpClosed, InvitationNeeded or DisposableAddress unless somebody with this address, and the word of the
    link that invites them, may sign up. It tells nothing of accounts there are."""
    if settings.SIGN_UP == SignUp.CLOSED:
        raise SignUpClosed
    if find_invitation(email, invitation) is not None:
        return
    if settings.SIGN_UP != SignUp.OPEN and not _is_of_domains(email):
        raise InvitationNeeded
    check_lasting(email)


def may_change_to(email: str, *, former: str) -> bool:
    """Return whether a member may have another address: whoever joined by their domain stays in one. Else its mailbox
    would open any number of accounts, and an account outlast the mailbox that its owner loses with their post."""
    return not _is_of_domains(former) or _is_of_domains(email)


def check_lasting(email: str) -> None:
    """Raise DisposableAddress for an address of a service for throw-away mail, where the site wants none."""
    if not settings.REFUSE_DISPOSABLE_MAIL:
        return
    labels = _domain_of(email).split(".")
    if any(".".join(labels[at:]) in blocklist for at in range(len(labels) - 1)):
        raise DisposableAddress


def find_invitation(email: str, word: str) -> Invitation | None:
    """Return the invitation of this address that was not used yet; None where the word is not its."""
    if not word:
        return None
    open_ones = Invitation.objects.filter(accepted_at=None, expires_at__gt=timezone.now())
    return open_ones.filter(digest=_digest(word), email=normalise_email(email)).first()


def find_invited(word: str) -> str:
    """Return the address that an invitation is for which was not used yet; empty for none."""
    invitation = Invitation.objects.filter(digest=_digest(word), accepted_at=None, expires_at__gt=timezone.now())
    return invitation.values_list("email", flat=True).first() or ""


def accept_invitation(user: User, word: str) -> None:
    """Note that whoever was invited has joined. Called in the transaction that makes the account."""
    if invitation := find_invitation(user.email, word):
        Invitation.objects.filter(pk=invitation.pk, accepted_at=None).update(accepted_at=timezone.now())


def invite(email: str, *, by: User, language: str) -> Invitation:
    """Invite somebody by mail; once more where they are invited already, by a new link in place of the old one. Raises
    Conflict where the address has an account."""
    email = normalise_email(email)
    if User.objects.filter(email=email).exists():
        raise Conflict(_("That address has an account."))
    word = secrets.token_urlsafe(24)
    fields = {
        "digest": _digest(word),
        "invited_by": by,
        "created_at": timezone.now(),
        "expires_at": timezone.now() + INVITED_FOR,
        "accepted_at": None,
    }
    try:
        invitation, _is_new = Invitation.objects.update_or_create(email=email, defaults=fields)
    except IntegrityError as error:  # another operator, at the same moment
        raise Conflict from error
    _send(invitation, word, language)
    return invitation


def forget_invitation(email: str) -> None:
    """Erase the invitation of an address that its member has no longer, or who is deleted; and the address in the log
    of the admin."""
    Invitation.objects.filter(email=email).delete()
    of_invitations = LogEntry.objects.filter(content_type=ContentType.objects.get_for_model(Invitation))
    of_invitations.filter(object_repr=email).update(object_repr="")


def _send(invitation: Invitation, word: str, language: str) -> None:
    query = urlencode({"invitation": word})
    with translation.override(language):
        context = {
            "site_name": settings.SITE_NAME,
            "link": f"{settings.SITE_URL}{reverse('account_signup')}?{query}",
            "days": INVITED_FOR.days,
        }
        text = render_to_string("accounts/mail/invitation.txt", context).strip()
    subject, _line, body = text.partition("\n")
    send_or_queue(EmailMessage(subject.strip(), body.strip() + "\n", settings.DEFAULT_FROM_EMAIL, [invitation.email]))


def _is_of_domains(email: str) -> bool:
    """Return whether whoever has this address may join by that, where domains decide."""
    return settings.SIGN_UP == SignUp.DOMAINS and _domain_of(email) in map(_host, settings.SIGN_UP_DOMAINS)


def _domain_of(email: str) -> str:
    return _host(normalise_email(email).rpartition("@")[2])


def _host(name: str) -> str:
    """Return the name as mail servers have it: there are others, of letters that look otherwise, for example.com."""
    with suppress(UnicodeError):  # no host is so called
        name = punycode(name)
    return name.lower()


def _digest(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()
