"""The second factor of a log-in: codes of an authenticator app, and recovery codes, each of which works once. Pages and
API ask here, within the limits."""

from allauth.account.internal.flows.login import get_authentication_records
from allauth.account.models import EmailAddress
from allauth.core.internal.cryptokit import compare_user_code
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value, yield_hotp_counters_from_time
from django.db import transaction
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from accounts import events, limits
from accounts.encryption import decrypt, encrypt, is_current
from accounts.limits import Act
from accounts.models import User
from core.errors import DomainError

FACTORS = (Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN)
"""What makes a log-in ask for more than a password. Recovery codes alone do not."""
WRONG_CODE = _("That is not the code, or it was used already. Wait for the next one, and try again.")


class AddressUnconfirmed(DomainError):
    """Whoever has the mailbox has the account: nobody may bar its owner from it."""

    code = "email_unconfirmed"
    status = 403
    message = _("Confirm your e-mail address first.")


def has_second_factor(user_id: int) -> bool:
    return bool(Authenticator.objects.filter(user_id=user_id, type__in=FACTORS).exists())


def was_shown(request: HttpRequest) -> bool:
    """Return whether a member has a second factor, and has shown it in this session: at the log-in, in setting it up,
    or when asked again."""
    user = request.user
    if not isinstance(user, User) or not has_second_factor(user.pk):
        return False
    return any(record["method"] == "mfa" for record in get_authentication_records(request, user))


def must_confirm_first(user: User) -> bool:
    """Return whether the member's address waits to be confirmed."""
    return bool(EmailAddress.objects.filter(user=user, email=user.email, verified=False).exists())


def check_may_add(user: User) -> None:
    """Raise AddressUnconfirmed where the member may have no second factor yet."""
    if must_confirm_first(user):
        raise AddressUnconfirmed


def find_by_code(user: User, code: str, *, peer: str) -> Authenticator | None:
    """Use up a code; return what it is of, or None where it is wrong or was used before. Raises RateLimited, and
    CannotDecrypt."""
    limits.count(Act.SECOND_FACTOR, peer=peer, account=user.email)
    found = use_code(user.pk, code)
    if found is None:
        events.record("second_factor_failed", peer=peer, user_id=user.pk)
        return None
    limits.forget_attempts(Act.SECOND_FACTOR, user.email)
    return found


@transaction.atomic
def use_code(user_id: int, code: str) -> Authenticator | None:
    """Use up a code, uncounted. The rows are locked: of two log-ins with one code one gets in."""
    mine = Authenticator.objects.select_for_update().filter(user_id=user_id).exclude(type=Authenticator.Type.WEBAUTHN)
    rows = list(mine.order_by("-type"))
    for one in rows:
        _encrypt_anew(one)
    for one in rows:
        if one.type == Authenticator.Type.TOTP and _use_step(one, code):
            return one
        if one.type == Authenticator.Type.RECOVERY_CODES and one.wrap().validate_code(code):
            return one
    return None


def find_step(secret: str, code: str) -> int | None:
    """Return the step of time whose code this is: now, or half a minute off, as clocks are."""
    for step in yield_hotp_counters_from_time():
        if compare_user_code(actual=code, expected=format_hotp_value(hotp_value(secret, step))):
            return int(step)
    return None


def codes_left(user_id: int) -> int | None:
    """Return how many recovery codes the member has; None for who never had any."""
    found = Authenticator.objects.filter(user_id=user_id, type=Authenticator.Type.RECOVERY_CODES).first()
    return found and len(found.wrap().get_unused_codes())


def remove_all(user: User) -> bool:
    """Remove whatever second factor somebody has, who cannot log in any more; return whether they had one."""
    removed, _rows = Authenticator.objects.filter(user=user).delete()
    return bool(removed)


def _use_step(one: Authenticator, code: str) -> bool:
    """Use up the code of an app. Steps only go on (RFC 6238, 5.2): neither it nor one from before it works again."""
    step = find_step(decrypt(one.data["secret"]), code)
    if step is None or step <= one.data.get("last_step", 0):
        return False
    one.data["last_step"] = step
    one.save(update_fields=["data"])
    return True


def _encrypt_anew(one: Authenticator) -> None:
    """Encrypt with the SECRET_KEY of today what an earlier one did: some day that is needed no more."""
    name = "secret" if one.type == Authenticator.Type.TOTP else "seed"
    if not is_current(one.data[name]):
        one.data[name] = encrypt(decrypt(one.data[name]))
        one.save(update_fields=["data"])
