"""An index of a table that is written meanwhile: the only operation of a migration that is not atomic."""

from typing import Any

from django.db import migrations
from django.db.models import Model


class AddIndexBeside(migrations.AddIndex):
    """Make an index: on PostgreSQL beside those who write, whom the plain kind stops. It may be repeated: one that is
    there is left alone, and what somebody left who died while making it is made anew."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        connection, name = schema_editor.connection, self.index.name
        model = to_state.apps.get_model(app_label, self.model_name)
        if connection.vendor == "mongodb":  # does all of that by itself
            super().database_forwards(app_label, schema_editor, from_state, to_state)
            return
        if not self.allow_migrate_model(connection.alias, model):
            return
        if connection.vendor == "postgresql":
            if not has_index(connection, model, name):
                schema_editor.add_index(model, self.index, concurrently=True)
            return
        with connection.cursor() as cursor:
            found = connection.introspection.get_constraints(cursor, model._meta.db_table)
        if name not in found:
            schema_editor.add_index(model, self.index)


def has_index(connection: Any, model: type[Model], name: str) -> bool:
    """Return whether PostgreSQL has the index; one that is there and unused, as whoever built it died, is removed."""
    table = connection.ops.quote_name(model._meta.db_table)
    schema, dot, _table = table.rpartition(".")  # an index is in the schema of its table
    with connection.cursor() as cursor:
        cursor.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [f"{schema}{dot}{name}"])
        found = cursor.fetchone()
        if found and not found[0]:
            cursor.execute(f"DROP INDEX {schema}{dot}{name}")
    return bool(found and found[0])
