"""`manage.py restore`: restores a backup into empty databases (docs/backups.md)."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from psycopg import Error as PsycopgError
from pymongo.errors import PyMongoError
from redis import RedisError

from config.backups.errors import BackupError
from config.backups.keys import read_identities
from config.backups.restoring import restore
from config.reachability import StoreUnreachableError, check_stores


class Command(BaseCommand):
    help = (
        "Restore a backup of “manage.py backup” into empty databases, while the site is stopped. It may be broken off "
        "and run again; until it has ended nothing else starts."
    )
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE")
        parser.add_argument("--key", type=Path, required=True, help="the file with the secret key")
        parser.add_argument("--replace", action="store_true", help="throw away what is in the databases")

    def handle(self, *_args: Any, file: Path, key: Path, replace: bool, **_options: Any) -> None:
        try:
            check_stores()
            restore(file, read_identities(key), replace=replace, say=self.stdout.write)
        except (BackupError, StoreUnreachableError) as error:
            raise CommandError(str(error)) from None
        except (DatabaseError, PsycopgError, PyMongoError, RedisError, OSError) as error:
            raise CommandError(
                f"A store refused or did not answer ({type(error).__name__}: {error}). Run this again: it begins anew."
            ) from error
