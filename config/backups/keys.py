"""Keys of backups, as the tools `age` and `age-keygen` write and read them.

Whoever makes backups needs the public half alone (`BACKUP_RECIPIENT`), so that a machine of the site that is taken over
gives away no earlier backup. The secret half is in a file that only a restore needs.
"""

import datetime as dt
import os
from collections.abc import Sequence
from pathlib import Path

from pyrage import IdentityError, RecipientError, x25519

from config.backups.errors import BackupError


def read_recipients(texts: Sequence[str]) -> list[x25519.Recipient]:
    """Return the public keys. Raises BackupError where there is none, or one is not valid."""
    if not texts:
        raise BackupError(
            "BACKUP_RECIPIENT is not set: a backup is always encrypted. “manage.py backup --new-key FILE” makes a key "
            "and says what to set; keep FILE away from this machine."
        )
    try:
        return [x25519.Recipient.from_str(text) for text in texts]
    except RecipientError:
        raise BackupError("BACKUP_RECIPIENT is no public key of age, which begins with “age1”.") from None


def read_identities(file: Path) -> list[x25519.Identity]:
    """Return the secret keys of a file, one a line. Raises BackupError."""
    try:
        lines = [line.strip() for line in file.read_text().splitlines()]
        return [x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
    except OSError as error:
        raise BackupError(f"The key {file} cannot be read: {error.strerror}.") from None
    except (IdentityError, UnicodeDecodeError):
        raise BackupError(
            f"{file} has a line that is no secret key of age, which begins with “AGE-SECRET-KEY-1”."
        ) from None


def write_new_key(file: Path) -> str:
    """Write a new secret key, for its owner alone, and return its public half. A file that is there stays."""
    identity = x25519.Identity.generate()
    recipient = str(identity.to_public())
    text = f"# created: {dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}\n# public key: {recipient}\n{identity}\n"
    try:
        with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as key:
            key.write(text)
    except OSError as error:
        raise BackupError(f"The key {file} cannot be written: {error.strerror}.") from None
    return recipient
