"""An authenticator app, and somebody who has set one up."""

import time
from dataclasses import dataclass
from typing import Any

from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, format_hotp_value, generate_totp_secret, hotp_value
from django.test import Client

from accounts.models import User
from tests.accounts.doors import PASSWORD

PERIOD_SECONDS = 30


@dataclass
class App:
    secret: str

    def code(self, steps: int = 0) -> str:
        """Return the code of now, or of so many steps later."""
        return format_hotp_value(hotp_value(self.secret, int(time.time()) // PERIOD_SECONDS + steps))

    def wrong_code(self) -> str:
        """Return one that none of now is."""
        near = {self.code(steps) for steps in range(-3, 4)}
        return next(code for code in ("000000", "111111", "222222", "333333", *"45678") if code not in near)


def set_up(user: User) -> App:
    """Give somebody a second factor, as the page does."""
    secret = generate_totp_secret()
    TOTP.activate(user, secret)
    RecoveryCodes.activate(user)
    return App(secret)


def recovery_codes(user: User) -> list[str]:
    row = Authenticator.objects.get(user=user, type=Authenticator.Type.RECOVERY_CODES)
    codes: list[str] = row.wrap().get_unused_codes()
    return codes


def set_up_on_pages(browser: Client) -> tuple[App, Any]:
    """Set up an app on the pages, as a member who is logged in; return it and the page that answers."""
    browser.post("/accounts/reauthenticate/", {"password": PASSWORD})
    app = App(browser.get("/accounts/2fa/totp/activate/").context["form"].secret)
    return app, browser.post("/accounts/2fa/totp/activate/", {"code": app.code()}, follow=True)
