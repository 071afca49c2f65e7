"""Restores a backup into empty databases.

The whole file is read once before anything is written. From then on until the end a mark says that the databases are
half restored (`core/half_restored.py`); whoever restores again begins from the beginning. At the end every row is read
back, and compared with what the backup says.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from time import sleep
from typing import IO, cast

from django.conf import settings
from django.core.files.base import File
from django.core.management import call_command
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Model
from pyrage import x25519

from accounts.models import User
from chat.attachments.storage import has_row, list_parts, storage
from chat.turns.presence import NoRunner, require_runner
from config.backups import archive, databases
from config.backups.databases import ALIASES
from config.backups.digests import content_of
from config.backups.errors import BackupError
from config.backups.manifest import FILES, Database, Header, Manifest
from config.backups.reading import open_backup, verify
from config.backups.releases import check_release
from config.backups.taking import Say, secret_key_mark
from config.database_routers import HISTORY
from config.embedded.addresses import remove_addresses
from config.embedded.data_dir_lock import AlreadyRunningError, lock_data_dir
from core.half_restored import is_half_restored, mark_half_restored, mark_restored
from core.redis_clients import sync_redis
from core.watching import list_processes
from history.copying import list_stored_models

LEAP = 1_000_000
"""Ids that are left out: those that were given out after the backup are known elsewhere, as at Stripe, in the addresses
of mails, or in a history that was read later, and must not become somebody else's."""
SCANNED_AT_ONCE = 1_000
ASKED_AGAIN_SECONDS = 0.5


def restore(file: Path, identities: list[x25519.Identity], *, replace: bool, say: Say) -> None:
    """Restore a backup; `replace` throws away what is there. Raises BackupError and what stores raise."""
    header, manifest = verify(file, identities)
    say(f"The backup is whole: made at {header.made_at:%Y-%m-%d %H:%M:%S} UTC by release {header.release}.")
    _check_stores(header)
    check_release(header)
    with _stopped_site():
        if not replace and not is_half_restored() and (there := _find_anything()):
            raise BackupError(f"There is something already ({there}): --replace throws it away.")
        mark_half_restored()
        _migrate()
        _check_tables(header)
        _empty(header)
        left_out = _load(file, identities, header, say)
        _compare(header, manifest)
        _forget_redis()
        mark_restored()
    say(f"Restored, read back and compared: {sum(map(len, manifest.tables.values()))} tables, {manifest.files} files.")
    say("Now run “manage.py prepare”, and start the site.")
    if left_out:
        say(f"Files that no row names were left out: {left_out}.")
    if header.secret_key != secret_key_mark():
        say(
            "SECRET_KEY is not the one that the backup was made with: put that one into SECRET_KEY_FALLBACKS, or "
            "second factors do not open, and the links of mails are void."
        )


def _check_stores(header: Header) -> None:
    for alias, database in header.databases.items():
        if database.vendor != databases.vendor_of(alias):
            raise BackupError(
                f"In the backup the database “{alias}” is one of {database.vendor}, and this site's is one of "
                f"{databases.vendor_of(alias)}: restore it to the same kind. “manage.py copy_history” moves a history."
            )


def _find_anything() -> str:
    """Return what there is in the databases that a new installation has not: its name, or nothing."""
    looked_at: list[tuple[str, type[Model]]] = [(DEFAULT_DB_ALIAS, User)]
    looked_at += [(HISTORY, model) for model in list_stored_models()]
    for alias, model in looked_at:
        is_made = model._meta.db_table in connections[alias].introspection.table_names()
        if is_made and model._base_manager.using(alias).exists():
            return str(model._meta.verbose_name_plural)
    return ""


def _migrate() -> None:
    """Make the tables, where they are not there yet."""
    for alias, apps in ((DEFAULT_DB_ALIAS, ()), (HISTORY, (HISTORY,))):
        executor = MigrationExecutor(connections[alias])
        if executor.migration_plan(
            [node for node in executor.loader.graph.leaf_nodes() if not apps or node[0] in apps]
        ):
            call_command("migrate", *apps, database=alias, verbosity=0, interactive=False)


def _check_tables(header: Header) -> None:
    for alias, database in header.databases.items():
        with databases.snapshot(alias) as found:
            there = {table.name: {*table.columns} for table in databases.list_tables(found)}
        for table in database.tables:
            if table.columns and not {*table.columns} <= there.get(table.name, set()):
                raise BackupError(f"This release makes no table {table.name} as the backup has it.")


def _empty(header: Header) -> None:
    for alias in ALIASES:
        with databases.snapshot(alias) as found:
            tables = databases.list_tables(found)
        with databases.loading(alias) as target:
            target.empty(tables)
    for name in list_parts():
        storage().delete(name)


def _load(file: Path, identities: list[x25519.Identity], header: Header, say: Say) -> int:
    """Write everything; return how many files were left out."""
    left_out = 0
    with open_backup(file) as opened, archive.reading(opened, identities) as members:
        for area, parts in groupby(members, lambda member: member[0].partition("/")[0]):
            if area in header.databases:
                _load_database(area, header.databases[area], parts, say)
            elif area == FILES:
                left_out = sum(not _load_file(name.partition("/")[2], content) for name, content in parts)
    for alias, database in header.databases.items():
        with databases.loading(alias) as target:
            target.set_sequences({table: last + LEAP for table, last in database.sequences.items()})
    return left_out


def _load_database(alias: str, database: Database, parts: Iterator[tuple[str, archive.ByteSource]], say: Say) -> None:
    tables = {table.name: table for table in database.tables}
    with databases.loading(alias) as target:
        for name, contents in groupby(parts, lambda part: part[0].split("/")[1]):
            target.load(tables[name], (content.read() for _name, content in contents))
            say(f"{alias}, {name}: loaded")


def _load_file(name: str, content: archive.ByteSource) -> bool:
    """Write a file, unless it came after its row could be in the backup; return whether it was written."""
    if not has_row(name):
        return False
    saved = storage().save(name, File(cast(IO[bytes], content)))
    if saved != name:
        raise BackupError(f"The file {name} is in the way in the storage of attachments.")
    return True


def _compare(header: Header, manifest: Manifest) -> None:
    for alias, database in header.databases.items():
        with databases.snapshot(alias) as found:
            for table in database.tables:
                if content_of(found.rows(table)) != manifest.tables[alias][table.name]:
                    raise BackupError(f"What was written to {table.name} is not what the backup has: restore it again.")


@contextmanager
def _stopped_site() -> Iterator[None]:
    """Keep `manage.py serve` from starting meanwhile. Raises BackupError while a site runs."""
    try:
        lock = lock_data_dir(settings.DATA_DIR)
    except AlreadyRunningError as error:
        raise BackupError(str(error)) from None
    try:
        remove_addresses(os.environ, settings.DATA_DIR)  # a site that was killed leaves them behind
        if _has_own_redis():
            _check_no_runner()
            _check_no_process()
        yield
    finally:
        os.close(lock)


def _has_own_redis() -> bool:
    """Return whether Redis is a server of its own; else it is started with the site, and so is not running now."""
    return bool(os.environ.get("REDIS_URL"))


def _check_no_runner() -> None:
    try:
        require_runner()
    except NoRunner:
        return
    raise BackupError("A runner of the site is alive: stop every process of the site first, on every machine.")


def _check_no_process() -> None:
    """Raise BackupError where a process says how it is. What one has said last, that has just ended, is there for a
    while: it is waited for whether it says more."""
    heard = _heard_at()
    while heard:
        sleep(ASKED_AGAIN_SECONDS)
        before, heard = heard, _heard_at()
        if spoken := sorted(name for name, at in heard.items() if at != before.get(name)):
            raise BackupError(
                f"The process {spoken[0]} of the site is alive: stop every process of the site first, on every machine."
            )


def _heard_at() -> dict[str, float]:
    return {f"{one.kind} {one.name}": one.at for one in list_processes()}


def _forget_redis() -> None:
    """Delete what Redis has: its queue, sessions and temporary conversations are of what came after the backup."""
    if not _has_own_redis():
        shutil.rmtree(settings.DATA_DIR / "valkey", ignore_errors=True)
        return
    for key in sync_redis().scan_iter(count=SCANNED_AT_ONCE):  # a user of Redis's need not have the right to FLUSHDB
        sync_redis().unlink(key)
