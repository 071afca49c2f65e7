"""The doors of the site, as a test knocks at them: pages and API, from any network address."""

import re
import threading
from typing import Any, ClassVar

from django.contrib.auth.hashers import MD5PasswordHasher
from django.core import mail
from django.test import Client
from rest_framework.test import APIClient

from accounts.models import User
from testbed.sessions import asked_again

PASSWORD = "una clave larga"
WRONG = "otra clave larga"


class CountedHasher(MD5PasswordHasher):
    """Counts what is hashed: `PASSWORD_HASHERS = [COUNTED]`."""

    hashed: ClassVar[list[str]] = []
    lock: ClassVar[threading.Lock] = threading.Lock()

    def encode(self, password: str, salt: str) -> str:
        with self.lock:
            self.hashed.append(password)
        return super().encode(password, salt)


COUNTED = "tests.accounts.doors.CountedHasher"


def log_in_by_api(email: str, password: str = PASSWORD, *, peer: str = "192.0.2.1"):
    body = {"email": email, "password": password}
    return APIClient(REMOTE_ADDR=peer).post("/api/v1/auth/login", body, format="json")


def log_in_by_page(email: str, password: str = PASSWORD, *, peer: str = "192.0.2.1", **more: str):
    return Client(REMOTE_ADDR=peer).post("/accounts/login/", {"login": email, "password": password, **more})


def sign_up_by_api(email: str, password: str = PASSWORD, *, peer: str = "192.0.2.1"):
    body = {"email": email, "password": password}
    return APIClient(REMOTE_ADDR=peer).post("/api/v1/auth/register", body, format="json")


def sign_up_by_page(email: str, password: str = PASSWORD, *, peer: str = "192.0.2.1"):
    fields = {"email": email, "password1": password, "terms": "on"}
    return Client(REMOTE_ADDR=peer).post("/accounts/signup/", fields)


def ask_for_reset(email: str, *, peer: str = "192.0.2.1"):
    return Client(REMOTE_ADDR=peer).post("/accounts/password/reset/", {"email": email})


def ask_again(browser: Client, user: User) -> Client:
    """Have somebody who is logged in have just shown once more who they are; return their browser."""
    session = browser.session
    session.update(asked_again(user))
    session.save()
    return browser


def links_in(message: mail.EmailMessage) -> list[str]:
    """Return the paths of the links in a mail."""
    return re.findall(r"https?://[^/\s]+(/\S*)", str(message.body))


def reset_password(message: mail.EmailMessage, password: str, *, peer: str = "192.0.2.1") -> Client:
    """Open the link of the mail and choose a password; return the browser, which is logged in."""
    browser = Client(REMOTE_ADDR=peer)
    page: Any = browser.get(links_in(message)[0], follow=True)
    browser.post(page.redirect_chain[-1][0], {"password1": password, "password2": password})
    return browser
