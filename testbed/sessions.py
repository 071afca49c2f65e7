"""What a session has of somebody who has just shown once more who they are."""

import time
from typing import Any

from allauth.account.internal.flows.login import _AUTHENTICATION_METHODS_USER_SESSION_KEY as OF_WHOM
from allauth.account.internal.flows.login import AUTHENTICATION_METHODS_SESSION_KEY
from allauth.account.internal.userkit import user_id_to_str

from accounts.models import User


def asked_again(user: User) -> dict[str, Any]:
    """Return it, for a day."""
    shown = {"method": "password", "at": time.time() + 24 * 3600, "reauthenticated": True}
    return {AUTHENTICATION_METHODS_SESSION_KEY: [shown], OF_WHOM: user_id_to_str(user)}
