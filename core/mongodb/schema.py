"""Changes of collections that may be repeated: MongoDB takes back nothing of a migration that did not end."""

from typing import Any

from django.db.models import Field, Model
from django_mongodb_backend.schema import DatabaseSchemaEditor


class RepeatableSchemaEditor(DatabaseSchemaEditor):  # type: ignore[misc]  # it has no types
    def create_model(self, model: type[Model]) -> None:
        if model._meta.db_table in self.connection.introspection.table_names():
            self._create_model_indexes(model)
        else:
            super().create_model(model)

    def add_field(self, model: type[Model], field: Any) -> None:
        """Write the default into every document, but for null: what is not there is null, too, and the documents of a
        long history are not all written again."""
        if not isinstance(field, Field) or field.many_to_many or self.effective_default(field) is not None:
            super().add_field(model, field)
        elif self._field_should_be_indexed(model, field):
            self._add_field_index(model, field)
        elif self._field_should_have_unique(field):
            self._add_field_unique(model, field)
