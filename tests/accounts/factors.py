"""An authenticator app and a security key, and somebody who has set one up."""

import json
import secrets
import time
from dataclasses import dataclass
from typing import Any

from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, format_hotp_value, generate_totp_secret, hotp_value
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from django.test import Client
from fido2.cose import ES256
from fido2.utils import sha256, websafe_decode, websafe_encode
from fido2.webauthn import AttestationObject, AttestedCredentialData, AuthenticatorData, CollectedClientData

from accounts.models import User
from tests.accounts.doors import PASSWORD

PERIOD_SECONDS = 30
ORIGIN = "http://localhost"
"""Where passkeys are taken without TLS."""


@dataclass
class App:
    secret: str
    last_code: str = ""

    def code(self, steps: int = 0) -> str:
        """Return the code of now, or of so many steps later."""
        self.last_code = format_hotp_value(hotp_value(self.secret, int(time.time()) // PERIOD_SECONDS + steps))
        return self.last_code

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


class SecurityKey:
    """A key that keeps one passkey, as a program asks it: it says what it is told to of who touches it, and from
    where."""

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())
        self._id = secrets.token_bytes(16)
        self._user_handle = b""

    def add(self, options: Any, *, verified: bool = True, origin: str = ORIGIN) -> str:
        """Make a passkey, as a page asks for it; return what the page gets."""
        asked = options["publicKey"]
        self._user_handle = websafe_decode(asked["user"]["id"])
        public = ES256.from_cryptography_key(self._private.public_key())
        flags = AuthenticatorData.FLAG.UP | AuthenticatorData.FLAG.AT | self._verified(verified)
        attested = AttestedCredentialData.create(bytes(16), self._id, public)
        data = AuthenticatorData.create(sha256(asked["rp"]["id"].encode()), flags, 0, attested)
        client = CollectedClientData.create("webauthn.create", asked["challenge"], origin)
        made = AttestationObject.create("none", data, {})
        return self._answer({"clientDataJSON": client.b64, "attestationObject": websafe_encode(made)})

    def show(self, options: Any, *, verified: bool = True, origin: str = ORIGIN) -> str:
        """Sign what a page asks with; return what the page gets."""
        asked = options["publicKey"]
        flags = AuthenticatorData.FLAG.UP | self._verified(verified)
        data = AuthenticatorData.create(sha256(asked["rpId"].encode()), flags, 1)
        client = CollectedClientData.create("webauthn.get", asked["challenge"], origin)
        response = {
            "clientDataJSON": client.b64,
            "authenticatorData": websafe_encode(data),
            "signature": websafe_encode(self._private.sign(data + client.hash, ec.ECDSA(hashes.SHA256()))),
            "userHandle": websafe_encode(self._user_handle),
        }
        return self._answer(response)

    def _verified(self, is_verified: bool) -> AuthenticatorData.FLAG:
        return AuthenticatorData.FLAG.UV if is_verified else AuthenticatorData.FLAG(0)

    def _answer(self, response: dict[str, str]) -> str:
        name = websafe_encode(self._id)
        return json.dumps({"id": name, "rawId": name, "type": "public-key", "response": response})
