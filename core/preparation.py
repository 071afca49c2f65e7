"""Whether the databases are as far as this code is: `manage.py prepare` brings them there, and processes ask first.

Databases that are further are fine: processes of the release before run beside those of the next one.
"""

import hashlib
import logging
from importlib import import_module
from pkgutil import iter_modules

from django.apps import apps
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, Error, connections, router
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from core.half_restored import HalfRestored, require_whole

logger = logging.getLogger(__name__)

Name = tuple[str, str]
"""A migration: the label of its app, and its name."""

MARK = "prepare"
"""Among the migrations that were applied, in the place of an app: what follows it is `_release`. So `prepare` needs no
table of its own, which would have to be there before the first migration."""


class NotPrepared(Exception):
    """The databases lack something of this release. The message is one sentence."""


def check_prepared() -> None:
    """Raise NotPrepared unless `prepare` has come to its end with this release, and while a backup is half restored. A
    database that is away is not asked: processes start without it, and wait."""
    try:
        require_whole()
        missing = next(filter(None, map(find_missing, settings.DATABASES)), "")
    except HalfRestored as error:
        raise NotPrepared(str(error)) from error
    except Error as error:
        logger.warning("Whether the databases are prepared is not known", extra={"error": type(error).__name__})
        return
    finally:
        connections.close_all()
    if missing:
        raise NotPrepared(f"The databases are not ready for this release ({missing}): run `manage.py prepare`.")


def mark_prepared() -> None:
    """Say that `prepare` has come to its end with this release."""
    recorder = MigrationRecorder(connections[DEFAULT_DB_ALIAS])
    mark = _mark(list_migrations())
    if mark not in recorder.applied_migrations():
        recorder.record_applied(*mark)


def list_migrations() -> set[Name]:
    """Return all of this code, by their files: they are not imported."""
    return {(app.label, name) for app in apps.get_app_configs() for name in _names_in(app.label)}


def find_missing(alias: str) -> str:
    """Return what a database lacks of this release, in a few words; empty for nothing."""
    migrations = list_migrations()
    here = {(app, name) for app, name in migrations if router.allow_migrate(alias, app)}
    applied = MigrationRecorder(connections[alias]).applied_migrations()
    if not applied and here:
        return f"{alias}: empty"
    if lacking := sorted(here - set(applied)):
        others = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        return f"{alias}: {'.'.join(lacking[0])}{others} not applied"
    if alias == DEFAULT_DB_ALIAS and _mark(migrations) not in applied:
        return "the last run did not come to its end"
    return ""


def find_later(alias: str) -> Name | None:
    """Return a migration that a later release has applied and this one does not have; None where there is none."""
    applied = MigrationRecorder(connections[alias]).applied_migrations()
    own = {app.label for app in apps.get_app_configs() if router.allow_migrate(alias, app.label)}
    return min((name for name in set(applied) - list_migrations() if name[0] in own), default=None)


def _names_in(app_label: str) -> list[str]:
    module_name, _is_explicit = MigrationLoader.migrations_module(app_label)
    try:
        package = import_module(module_name or "")
    except (ModuleNotFoundError, ValueError):  # it has none
        return []
    return [found.name for found in iter_modules(package.__path__) if not found.ispkg and found.name[0] not in "_~"]


def _mark(migrations: set[Name]) -> Name:
    names = "\n".join(".".join(name) for name in sorted(migrations))
    return MARK, hashlib.blake2b(names.encode(), digest_size=8).hexdigest()
