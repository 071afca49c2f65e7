"""Whether somebody's address is known to be theirs, where the site asks for that."""

from allauth.account.models import EmailAddress
from django.conf import settings

from accounts.models import User
from core import rows


def must_confirm_email(user_id: int) -> bool:
    """Return whether the person has to confirm their address before they cost the site anything.

    Who signs up where that is asked for gets in with the link of the mail alone; others are from before it was, or made
    by an operator. It costs two rows by their keys.
    """
    if not settings.REQUIRE_VERIFIED_EMAIL:
        return False
    user = rows.find(User, pk=user_id)
    return user is not None and rows.find(EmailAddress, user_id=user_id, email=user.email, verified=True) is None
