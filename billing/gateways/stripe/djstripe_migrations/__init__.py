"""dj-stripe's tables as one generated migration: its own take more than a minute on a new database.

A newer dj-stripe: set MADE_FROM, run `manage.py makemigrations djstripe`, and `make check-djstripe`.
"""

from collections.abc import Sequence
from typing import Any

from django.db import router
from django.db.migrations.operations.base import Operation
from django.db.migrations.operations.models import CreateModel
from django.db.migrations.state import ProjectState

MADE_FROM = "2.11.0"
"""The dj-stripe whose models the migrations make."""


class Together(Operation):
    """Operations that make all models of an app. Their state is known before anything of it is rendered, which Django
    would do after each of them, with everything that is related: seconds, on each of the two databases."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = operations

    def deconstruct(self) -> tuple[str, Sequence[Any], dict[str, Any]]:
        return type(self).__name__, [self.operations], {}

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        state.__dict__.pop("apps", None)
        for operation in self.operations:
            operation.state_forwards(app_label, state)

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Create the tables as the last of the operations leaves them."""
        if router.allow_migrate(schema_editor.connection.alias, app_label):
            for name in self._names():
                schema_editor.create_model(to_state.apps.get_model(app_label, name))

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if router.allow_migrate(schema_editor.connection.alias, app_label):
            for name in reversed(self._names()):
                schema_editor.delete_model(from_state.apps.get_model(app_label, name))

    def _names(self) -> list[str]:
        return [operation.name for operation in self.operations if isinstance(operation, CreateModel)]
