"""Which release this is, and whether it can restore a backup of another: only one whose tables are the same can."""

from collections.abc import Set

from django.db.migrations.loader import MigrationLoader

from config.backups.errors import BackupError
from config.backups.manifest import Header
from config.database_routers import HISTORY
from config.version import VERSION

Migration = tuple[str, str]


def check_release(header: Header) -> None:
    """Raise BackupError unless the backup's tables are those of this release; it says which release to use."""
    ours: Set[Migration] = MigrationLoader(None).disk_migrations.keys()
    for alias, database in header.databases.items():
        apps = {HISTORY} if alias == HISTORY else {app for app, _name in ours}  # others make nothing there
        wanted = {key for key in ours if key[0] in apps}
        theirs = {(app, name) for app, name in database.migrations if app in apps}
        if theirs - wanted:
            raise BackupError(
                f"The backup was made by release {header.release}, which has tables that this one, {VERSION}, "
                f"does not know ({_name(theirs - wanted)}): restore it with release {header.release}."
            )
        if wanted - theirs:
            raise BackupError(
                f"The backup was made by release {header.release}, before the tables of this one, {VERSION} "
                f"({_name(wanted - theirs)}): restore it with release {header.release}, and then upgrade."
            )


def _name(migrations: Set[Migration]) -> str:
    return ".".join(min(migrations))
