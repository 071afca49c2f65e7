"""The settings, as `manage.py check --deploy` judges them."""

from collections.abc import Iterator

from django.conf import settings
from django.core import checks

from config.backups.errors import BackupError
from config.backups.keys import read_recipients
from config.doctor.findings import Finding, State, ok, warn


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
    except BackupError as error:
        yield warn("backups", str(error), "See docs/backups.md. Who keeps backups in another way need not mind.")
