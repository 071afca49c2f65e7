"""Encrypts what must be read again, such as the secret of an authenticator app, with a key made of SECRET_KEY. What was
encrypted with an earlier one can be read while that is in SECRET_KEY_FALLBACKS."""

import logging
from base64 import urlsafe_b64encode
from functools import cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.utils.translation import gettext_lazy as _

from core.errors import DomainError

logger = logging.getLogger(__name__)


class CannotDecrypt(DomainError):
    """It was encrypted with a key that nobody has told us of."""

    code = "second_factor_unreadable"
    status = 503
    message = _("Your two-step log-in cannot be read any more. Ask whoever runs this site to remove it.")


def encrypt(text: str) -> str:
    return _fernet((settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)).encrypt(text.encode()).decode()


def decrypt(encrypted: str) -> str:
    """Return the text. Raises CannotDecrypt."""
    try:
        return _fernet((settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)).decrypt(encrypted).decode()
    except InvalidToken as error:
        logger.error("Something was encrypted with a SECRET_KEY that is not in SECRET_KEY_FALLBACKS")
        raise CannotDecrypt from error


def is_current(encrypted: str) -> bool:
    """Return whether the SECRET_KEY of today encrypted it."""
    try:
        _fernet((settings.SECRET_KEY,)).decrypt(encrypted)
    except InvalidToken:
        return False
    return True


@cache
def _fernet(secrets: tuple[str, ...]) -> MultiFernet:
    """Return what encrypts with the first, and decrypts with all of them."""
    return MultiFernet([Fernet(_key_of(secret)) for secret in secrets])


def _key_of(secret: str) -> bytes:
    key = HKDF(SHA256(), 32, salt=None, info=b"accounts.encryption").derive(secret.encode())
    return urlsafe_b64encode(key)
