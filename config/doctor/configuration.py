"""The settings, as `manage.py check --deploy` judges them."""

import datetime as dt
from collections.abc import Iterator

from django.conf import settings
from django.core import checks
from django.utils import timezone

from config.backups.errors import BackupError
from config.backups.keys import read_recipients
from config.backups.taken import TOO_OLD, last_backup_at
from config.doctor.findings import Finding, State, either, ok, warn


def examine_settings() -> Iterator[Finding]:
    messages = [message for message in checks.run_checks(include_deployment_checks=True) if not message.is_silenced()]
    for message in messages:
        state: State = "fail" if message.level >= checks.ERROR else "warn"
        if message.level >= checks.WARNING:
            yield Finding(
                state, f"settings ({message.id})", str(message.msg), str(message.hint or "See docs/production.md.")
            )
    if all(message.level < checks.WARNING for message in messages):
        yield ok("settings", "check --deploy finds nothing")
    try:
        read_recipients(settings.BACKUP_RECIPIENT)
        yield ok("backups", "can be made")
        yield _examine_last_backup()
    except BackupError as error:
        yield warn("backups", str(error), "See docs/backups.md. Who keeps backups in another way need not mind.")


def _examine_last_backup() -> Finding:
    taken_at = last_backup_at()
    if taken_at is None:
        return warn("last backup", "None was taken yet.", "Take one every night: docs/backups.md says how.")
    moment = dt.datetime.fromtimestamp(taken_at, dt.UTC)
    said = f"{moment:%Y-%m-%d %H:%M} UTC"
    remedy = "Look why the one of last night is missing: docs/backups.md says how it is taken."
    return either(
        timezone.now() - moment < TOO_OLD, ok("last backup", said), warn("last backup", f"It is of {said}.", remedy)
    )
