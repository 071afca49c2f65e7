"""Routes the models of history to the database of their own: MongoDB, PostgreSQL or SQLite."""

from typing import Any

from django.db.models import Model

HISTORY = "history"
COPY = "history_copy"
"""Where `manage.py copy_history` copies the history to."""


class HistoryRouter:
    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        return HISTORY if model._meta.app_label == "history" else None

    db_for_write = db_for_read

    def allow_relation(self, first: Model, second: Model, **hints: Any) -> bool | None:
        return (first._meta.app_label == "history") == (second._meta.app_label == "history")

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return (db in (HISTORY, COPY)) == (app_label == "history")
