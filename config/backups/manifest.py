"""What a backup says about itself: at its beginning what it is of, at its end what is in it."""

import datetime as dt

import msgspec

from config.backups.digests import TableContent
from config.backups.errors import DamagedBackup

FORMAT = 1
HEADER = "header.json"
SETTINGS = "settings.env"
FILES = "attachments"
MANIFEST = "manifest.json"


class Table(msgspec.Struct, frozen=True):
    """A table or collection. A collection's documents have fields of their own: it has no columns."""

    name: str
    columns: list[str]


class Database(msgspec.Struct, frozen=True):
    """One of the two databases. `sequences` are the last ids that were given out, by table."""

    vendor: str
    migrations: list[tuple[str, str]]
    tables: list[Table]
    sequences: dict[str, int]


class Header(msgspec.Struct, frozen=True):
    """`secret_key` is a digest: whether the site that restores has the same SECRET_KEY."""

    format: int
    release: str
    made_at: dt.datetime
    secret_key: str
    databases: dict[str, Database]


class Manifest(msgspec.Struct, frozen=True):
    """By database and table, and of the files, what is in the backup."""

    tables: dict[str, dict[str, TableContent]]
    files: int
    file_bytes: int


def encode_part(part: Header | Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(part), indent=2)


def decode_header(data: bytes) -> Header:
    """Raises DamagedBackup, also for a format of a later release."""
    try:
        format_ = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("format")
        if format_ is not None and int(bytes(format_)) != FORMAT:
            raise DamagedBackup("The backup is of another format, made by a later release of Tertulia: use that one.")
        return msgspec.json.decode(data, type=Header)
    except (msgspec.MsgspecError, ValueError) as error:
        raise DamagedBackup("This is no backup of Tertulia: its first part says nothing of one.") from error


def decode_manifest(data: bytes) -> Manifest:
    try:
        return msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise DamagedBackup("The backup is damaged: its last part cannot be read.") from error
