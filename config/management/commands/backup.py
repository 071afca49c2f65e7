"""`manage.py backup`: writes a backup of the whole site, or looks whether one is whole (docs/backups.md)."""

import fcntl
import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from psycopg import Error as PsycopgError
from pymongo.errors import PyMongoError

from chat.models import Attachment
from config.backups.errors import BackupError
from config.backups.keys import read_identities, read_recipients, write_new_key
from config.backups.reading import verify
from config.backups.taken import note_backup
from config.backups.taking import take_backup


class Command(BaseCommand):
    help = (
        "Write a backup of both databases, the files people attached and the settings without secrets into FILE (“-”: "
        "standard output), encrypted for BACKUP_RECIPIENT. The site may run meanwhile."
    )
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", nargs="?", metavar="FILE")
        parser.add_argument("--verify", action="store_true", help="read FILE to its end, and restore nothing")
        parser.add_argument("--key", type=Path, help="the file with the secret key, for --verify")
        parser.add_argument("--new-key", type=Path, metavar="FILE", help="make a key, and end")

    def handle(
        self, *_args: Any, file: str | None, verify: bool, key: Path | None, new_key: Path | None, **options: Any
    ) -> None:
        try:
            if new_key:
                self._make_key(new_key)
            elif not file:
                raise CommandError("Name the file: manage.py backup FILE")
            elif verify:
                self._verify(Path(file), key)
            elif file == "-":
                self._write_out(options["verbosity"])
                note_backup()
            else:
                self._write_file(Path(file), options["verbosity"])
                note_backup()
        except BackupError as error:
            raise CommandError(str(error)) from None
        except (DatabaseError, PsycopgError, PyMongoError) as error:
            raise CommandError(f"A database did not answer ({type(error).__name__}): there is no backup.") from None
        except OSError as error:  # where it is written, or of a file that it reads
            where = f"{error.filename}: " if error.filename else ""
            raise CommandError(f"There is no backup {file}: {where}{error.strerror or error}.") from None

    def _make_key(self, file: Path) -> None:
        recipient = write_new_key(file)
        self.stdout.write(
            f"Put this into .env:\n\n    BACKUP_RECIPIENT={recipient}\n\nTake {file} to a place that is not this "
            "machine, and keep it with your passwords: without it no backup can be opened, by anybody."
        )

    def _verify(self, file: Path, key: Path | None) -> None:
        if key is None:
            raise CommandError("Name the file with the secret key: --key FILE")
        header, manifest = verify(file, read_identities(key))
        for alias, tables in manifest.tables.items():
            for name, content in tables.items():
                self.stdout.write(f"{alias}, {name}: {content.rows} rows, hash {content.hash}")
        self.stdout.write(f"files: {manifest.files}, {manifest.file_bytes:,} bytes")
        self.stdout.write(
            f"The backup is whole: made at {header.made_at:%Y-%m-%d %H:%M:%S} UTC, release {header.release}."
        )

    def _write_out(self, verbosity: int) -> None:
        try:
            self._write(sys.stdout.buffer, verbosity)
            sys.stdout.buffer.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries once more as it ends
            raise

    def _write_file(self, file: Path, verbosity: int) -> None:
        """Write under another name until all is there: what has the name of a backup is one."""
        unfinished = file.with_name(f"{file.name}.unfinished")
        with _alone(unfinished) as target:
            if file.exists():
                raise CommandError(f"{file} is there already.")
            self._write(target, verbosity)
            target.flush()
            os.fsync(target.fileno())
            unfinished.rename(file)
        self.stdout.write(f"{file}: {file.stat().st_size:,} bytes.")

    def _write(self, target: Any, verbosity: int) -> None:
        recipients = read_recipients(settings.BACKUP_RECIPIENT)
        manifest = take_backup(target, recipients, say=self._say if verbosity > 1 else str)
        if not manifest.files and Attachment.objects.filter(status=Attachment.Status.READY).exists():
            self._say("None of the files that people attached was found: is DATA_DIR that of the site?")

    def _say(self, line: str) -> None:
        self.stderr.write(line)


@contextmanager
def _alone(unfinished: Path) -> Iterator[BinaryIO]:
    """Open a file that nobody else writes meanwhile; it is gone at the end, unless it has another name by then. What is
    there was left by somebody who died."""
    with os.fdopen(os.open(unfinished, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as target:
        if not _locks(target, unfinished):
            raise CommandError(f"{unfinished} is being written: another backup is under way.")
        try:
            target.truncate()
            yield target
        finally:
            unfinished.unlink(missing_ok=True)


def _locks(target: BinaryIO, unfinished: Path) -> bool:
    """Lock the file that was opened; return False where another has it, or has just ended with it."""
    with suppress(OSError):  # not every kind of file system has locks
        try:
            fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    try:
        return os.path.samestat(os.fstat(target.fileno()), unfinished.stat())
    except FileNotFoundError:
        return False
