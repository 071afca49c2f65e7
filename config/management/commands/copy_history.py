"""`manage.py copy_history`: moves the history to another store, step by step. See docs/mongodb.md."""

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, IntegrityError, OperationalError, connections
from django.db.utils import load_backend

from config import settings as configuration
from config.database_routers import COPY, HISTORY
from history.copying import copy_rows, count_strangers, list_stored_models, read_contents


class Command(BaseCommand):
    help = (
        "Copy all conversations and turns of this site to another store, and compare the two. It may be broken off and "
        "repeated: what is there already is not written again. The site may run meanwhile; repeat it once more after "
        "the site was stopped, and then configure the new store."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("address", help="mongodb://…, or postgres://… for the schema `history` there")
        parser.add_argument(
            "--remove",
            action="store_true",
            help="remove what the new store has and this site has not: what was deleted since the last copy",
        )
        parser.add_argument("--only-compare", action="store_true", help="write nothing")

    def handle(self, *_args: Any, address: str, remove: bool, only_compare: bool, **_options: Any) -> None:
        _connect(address)
        try:
            if not only_compare:
                call_command("migrate", database=COPY, verbosity=0, interactive=False)
                self._copy(remove=remove)
            self._compare()
        except IntegrityError:
            raise CommandError(
                "A row of the new store is in the way of one of this site. If the new store has nothing but an earlier "
                "copy, run this again with --remove."
            ) from None
        except OperationalError as error:
            raise CommandError(
                f"A store did not answer ({type(error).__name__}). Run this again: it goes on."
            ) from None
        finally:
            copy: Any = connections[COPY]
            copy.close()
            if copy.vendor == "postgresql":
                copy.close_pool()

    def _copy(self, *, remove: bool) -> None:
        for model in list_stored_models():
            strangers = 0 if remove else count_strangers(model, HISTORY, COPY)
            if strangers:
                raise CommandError(
                    f"The new store has {strangers} rows of {model.__name__} that this site has not. Either they "
                    "were deleted since the last copy: run this again with --remove. Or the store is another site's."
                )
        for model in list_stored_models():
            copied = copy_rows(model, HISTORY, COPY, remove_strangers=remove)
            self.stdout.write(
                f"{model.__name__}: {copied.added} added, {copied.changed} changed, {copied.removed} removed"
            )

    def _compare(self) -> None:
        are_equal = True
        for model in list_stored_models():
            here, there = read_contents(model, HISTORY), read_contents(model, COPY)
            are_equal = are_equal and here == there
            self.stdout.write(f"{model.__name__}: here {here.count} rows, hash {here.digest}")
            self.stdout.write(f"{model.__name__}: there {there.count} rows, hash {there.digest}")
        if not are_equal:
            raise CommandError("They differ. While the site runs that is to be expected: stop it, and run this again.")
        self.stdout.write("They are equal.")


def _connect(address: str) -> None:
    """Make the new store known as the database COPY. Raises CommandError for what is no address of one."""
    try:
        if address.startswith(("mongodb://", "mongodb+srv://")):
            database = configuration.mongodb_database(address)
        elif address.startswith(("postgres://", "postgresql://")):
            database = configuration.postgresql_history(address)
        else:
            raise CommandError("The address of the new store begins with mongodb://, mongodb+srv:// or postgres://.")
    except ImproperlyConfigured:
        raise CommandError("That is not a valid address.") from None
    configured = connections.configure_settings({DEFAULT_DB_ALIAS: {}, COPY: database})[COPY]
    connections[COPY] = load_backend(configured["ENGINE"]).DatabaseWrapper(configured, COPY)
