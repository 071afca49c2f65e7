"""What must be wired once every app is there."""

from typing import Any

from django.apps import AppConfig, apps
from django.db import connections
from django.db.models.signals import pre_migrate


class ConfigConfig(AppConfig):
    name = "config"

    def ready(self) -> None:
        from config import checks  # noqa: F401  registers them
        from config.celery import app

        app.set_default()  # in every thread; else tasks are sent to a broker that is Celery's own idea
        pre_migrate.connect(create_history_schema, sender=apps.get_app_config("history"))


def create_history_schema(using: str, **_signal: Any) -> None:
    """Make the schema the history's own migration table lives in, where both databases are one PostgreSQL."""
    connection = connections[using]
    if using == "history" and connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA IF NOT EXISTS history")
