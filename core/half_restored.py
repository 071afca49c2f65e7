"""Whether a restore of a backup was broken off: what is there then is a part of a site, and nothing may run on it.

The mark is a row beside those of the migrations, which every database has before it has anything else.
"""

from django.core.management.base import CommandError
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.recorder import MigrationRecorder

MARK = ("restore", "half_done")


class HalfRestored(CommandError):
    """A restore was begun and has not ended. The message is one sentence, which a command prints and ends."""


def mark_half_restored() -> None:
    if not is_half_restored():
        _recorder().record_applied(*MARK)


def mark_restored() -> None:
    _recorder().record_unapplied(*MARK)


def is_half_restored() -> bool:
    recorder = _recorder()
    return recorder.has_table() and recorder.migration_qs.filter(app=MARK[0], name=MARK[1]).exists()


def require_whole() -> None:
    """Raise HalfRestored while a restore is under way, or after one that was broken off."""
    if is_half_restored():
        raise HalfRestored(
            "The databases are half restored: “manage.py restore” is running, or was broken off. Let it end, or run it "
            "again; nothing else starts before."
        )


def _recorder() -> MigrationRecorder:
    return MigrationRecorder(connections[DEFAULT_DB_ALIAS])
