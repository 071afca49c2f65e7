"""Reads a whole backup without writing anything: whether every part of it is what was written."""

from collections import defaultdict
from pathlib import Path
from typing import BinaryIO

from pyrage import x25519

from config.backups import archive, databases
from config.backups.digests import Digest, TableContent
from config.backups.errors import BackupError, DamagedBackup
from config.backups.manifest import FILES, HEADER, MANIFEST, SETTINGS, Header, Manifest, decode_header, decode_manifest


def verify(file: Path, identities: list[x25519.Identity]) -> tuple[Header, Manifest]:
    """Return what a backup is of and what is in it. Raises WrongKey, DamagedBackup, and BackupError."""
    digests: dict[str, dict[str, Digest]] = defaultdict(lambda: defaultdict(Digest))
    header = manifest = None
    files = file_bytes = 0
    with open_backup(file) as opened, archive.reading(opened, identities) as members:
        for name, content in members:
            area, _slash, rest = name.partition("/")
            if header is None:
                header = _read_header(name, content)
            elif manifest is not None:
                raise DamagedBackup("The backup is damaged: something follows its end.")
            elif area in header.databases:
                digest = digests[area][rest.rpartition("/")[0]]
                for row in databases.split_part(header.databases[area].vendor, content.read()):
                    digest.add(row)
            elif area == FILES:
                files += 1
                while data := content.read(archive.READ_BYTES):
                    file_bytes += len(data)
            elif name == MANIFEST:
                manifest = decode_manifest(content.read())
            elif name != SETTINGS:
                raise DamagedBackup(f"The backup is damaged: it has a part of no kind, {name}.")
    if header is None or manifest is None:
        raise DamagedBackup("The backup is not whole: its making was broken off.")
    read = {
        alias: {table.name: _content(digests[alias], table.name) for table in database.tables}
        for alias, database in header.databases.items()
    }
    if Manifest(read, files, file_bytes) != manifest:
        raise DamagedBackup("The backup is damaged: its counts are not those of what is in it.")
    return header, manifest


def open_backup(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise BackupError(f"The backup {file} cannot be read: {error.strerror}.") from None


def _read_header(name: str, content: archive.ByteSource) -> Header:
    if name != HEADER:
        raise DamagedBackup("This is no backup of Tertulia.")
    return decode_header(content.read())


def _content(digests: dict[str, Digest], table: str) -> TableContent:
    return digests[table].content()
