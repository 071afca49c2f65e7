"""An index of a table that is written meanwhile: the only operation of a migration that is not atomic."""

from typing import Any

from django.db import migrations


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
        with connection.cursor() as cursor:
            if name in connection.introspection.get_constraints(cursor, model._meta.db_table):
                if connection.vendor != "postgresql" or _is_valid(cursor, name):
                    return
                schema_editor.remove_index(model, self.index, concurrently=True)
        if connection.vendor == "postgresql":
            schema_editor.add_index(model, self.index, concurrently=True)
        else:
            schema_editor.add_index(model, self.index)


def _is_valid(cursor: Any, name: str) -> bool:
    cursor.execute(
        "SELECT bool_and(indisvalid) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE relname = %s",
        [name],
    )
    return bool(cursor.fetchone()[0])
