"""Makes a backup, while the site runs.

Both databases are read as they were when it began, money a moment before the history; MongoDB, which keeps no such
moment for long, as it is when it is read. Files come last: whatever a row names was there by then.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import BinaryIO

from django.conf import settings
from django.core.files.base import File
from django.utils.crypto import salted_hmac
from pyrage import x25519

from chat.attachments.storage import list_parts, storage
from config.backups import archive, databases
from config.backups.databases import ALIASES, StoreSnapshot
from config.backups.digests import Digest, TableContent
from config.backups.manifest import FILES, FORMAT, HEADER, MANIFEST, SETTINGS, Database, Header, Manifest, encode_part
from config.backups.settings_kept import list_settings
from config.version import VERSION
from core.half_restored import require_whole

Say = Callable[[str], object]


def take_backup(target: BinaryIO, recipients: Sequence[x25519.Recipient], say: Say) -> Manifest:
    """Write a backup into `target`; return what is in it. Raises BackupError, HalfRestored, and what stores raise."""
    require_whole()
    with ExitStack() as stack:
        snapshots = {alias: stack.enter_context(databases.snapshot(alias)) for alias in ALIASES}
        described = {alias: databases.describe_database(found) for alias, found in snapshots.items()}
        header = Header(FORMAT, VERSION, dt.datetime.now(dt.UTC), secret_key_mark(), described)
        writer = stack.enter_context(archive.writing(target, recipients))
        writer.add(HEADER, encode_part(header))
        writer.add(SETTINGS, list_settings())
        tables = {alias: _write_tables(writer, alias, described[alias], snapshots.pop(alias), say) for alias in ALIASES}
        manifest = Manifest(tables, *_write_files(writer))
        say(f"files: {manifest.files}, {manifest.file_bytes:,} bytes")
        writer.add(MANIFEST, encode_part(manifest))
        writer.write_hashes()
    return manifest


def secret_key_mark() -> str:
    """Return a word that says whether another site has the same SECRET_KEY, and nothing else about it."""
    return salted_hmac("config.backups", "SECRET_KEY", secret=settings.SECRET_KEY).hexdigest()


def _write_tables(
    writer: archive.Writer, alias: str, described: Database, found: StoreSnapshot, say: Say
) -> dict[str, TableContent]:
    contents = {}
    for table in described.tables:
        digest = Digest()
        for number, part in enumerate(databases.parts_of(found.rows(table), digest), start=1):
            writer.add(f"{alias}/{table.name}/{number:06}", part)
        contents[table.name] = digest.content()
        say(f"{alias}, {table.name}: {digest.rows} rows")
    return contents


def _write_files(writer: archive.Writer) -> tuple[int, int]:
    """Write the files people attached; return how many they are, and their bytes."""
    count = total = 0
    for name in list_parts():
        try:
            file: File[bytes]
            with storage().open(name) as file:
                size = file.size
                writer.add_stream(f"{FILES}/{name}", file, size)
        except FileNotFoundError:  # erased since the list was read
            continue
        count, total = count + 1, total + size
    return count, total
