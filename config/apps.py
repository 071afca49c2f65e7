"""What is connected once every app is loaded: checks, Celery, the schema of the history."""

from typing import Any

from django.apps import AppConfig, apps
from django.contrib.admin import apps as admin_apps  # not its class: a default one of this module, it would be ours
from django.db import connections
from django.db.models.signals import post_migrate, pre_migrate


class ConfigConfig(AppConfig):
    default = True
    name = "config"

    def ready(self) -> None:
        from config import checks  # noqa: F401  registers them
        from config.celery import app
        from config.reporting import start_reporting
        from core.watching import serve_also

        serve_also("/site", load_site_registry)
        start_reporting()
        app.set_default()  # for every thread; otherwise tasks go to Celery's default broker
        pre_migrate.connect(create_history_schema, sender=apps.get_app_config("history"))
        pre_migrate.connect(lift_statement_limit)
        post_migrate.connect(restore_statement_limit)


class OperatorAdminConfig(admin_apps.AdminConfig):
    """Django's admin, with a front of ours."""

    default = False
    default_site = "config.admin.OperatorSite"


def load_site_registry() -> Any:
    """Return the figures of the site. What reads them is loaded when somebody asks."""
    from config.site_figures import site_registry

    return site_registry()


def lift_statement_limit(using: str, **_signal: Any) -> None:
    """Let the statements of migrations take their time: one may well rewrite a table."""
    if connections[using].vendor == "postgresql":
        connections[using].ensure_connection()
        connections[using].connection.statement_seconds = None


def restore_statement_limit(using: str, **_signal: Any) -> None:
    if connections[using].vendor == "postgresql":
        connections[using].ensure_connection()
        from core.postgresql.pool import STATEMENT_SECONDS  # here, because without PostgreSQL nobody needs its driver

        connections[using].connection.statement_seconds = STATEMENT_SECONDS


def create_history_schema(using: str, **_signal: Any) -> None:
    """Create the schema that the history and its migration table use where both databases are one PostgreSQL."""
    connection = connections[using]
    if connection.settings_dict["OPTIONS"].get("schema") == "history":
        with connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA IF NOT EXISTS history")
