"""Whether a restore of a backup was broken off: what is there then is a part of a site, and nothing may run on it.

The mark is a row beside those of the migrations, which every database has before it has anything else. It has a word of
its own for each restore, so that of two, on two machines, the one that began first does not go on.
"""

from uuid import uuid4

from django.core.management.base import CommandError
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.migrations.recorder import MigrationRecorder

MARK = "restore"
"""In the place of an app; what follows it is the word."""


class HalfRestored(CommandError):
    """A restore was begun and has not ended. The message is one sentence, which a command prints and ends."""


def mark_half_restored() -> str:
    """Say that a restore has begun; return its word. One that had begun before has none any more."""
    recorder, word = _recorder(), uuid4().hex
    recorder.ensure_schema()
    with transaction.atomic(using=DEFAULT_DB_ALIAS):
        recorder.record_applied(MARK, word)
        recorder.migration_qs.filter(app=MARK).exclude(name=word).delete()
    return word


def mark_restored(word: str) -> None:
    """Say that the restore with this word has ended. Raises HalfRestored, as `require_own_restore` does."""
    require_own_restore(word)
    _recorder().record_unapplied(MARK, word)


def require_own_restore(word: str) -> None:
    """Raise HalfRestored where another restore has begun since, and perhaps ended."""
    if {*_recorder().migration_qs.filter(app=MARK).values_list("name", flat=True)} != {word}:
        raise HalfRestored("Another restore of the same site was begun meanwhile: let it end, or run this again.")


def is_half_restored() -> bool:
    recorder = _recorder()
    return recorder.has_table() and recorder.migration_qs.filter(app=MARK).exists()


def require_whole() -> None:
    """Raise HalfRestored while a restore is under way, or after one that was broken off."""
    if is_half_restored():
        raise HalfRestored(
            "The databases are half restored: “manage.py restore” is running, or was broken off. Let it end, or run it "
            "again; nothing else starts before."
        )


def _recorder() -> MigrationRecorder:
    return MigrationRecorder(connections[DEFAULT_DB_ALIAS])
