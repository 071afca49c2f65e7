"""Migrations expand before they contract: processes of the release before run beside those of the next one, and go on
reading and writing every table and column they know (docs/upgrading.md)."""

import pytest
from django.db import migrations, models
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation

LAST_BEFORE = {"accounts": "0011", "billing": "0017", "chat": "0011", "history": "0017"}
"""The last migration of each app that came before this rule."""

RULE = (
    "New columns may be null; what nobody uses goes a release later, in a migration that says so: "
    "contracts = 'the first release that did not use it'."
)


def takes_away(operation: Operation) -> bool:
    """Return whether a process that does not know of the operation may fail after it."""
    match operation:
        case migrations.SeparateDatabaseAndState():
            return any(map(takes_away, operation.database_operations))
        case migrations.AddField() | migrations.AlterField():
            is_many = isinstance(operation.field, models.ManyToManyField)
            return not (is_many or operation.field.null or isinstance(operation, migrations.AlterField))
        case migrations.AddConstraint() | migrations.AlterUniqueTogether() | migrations.AlterModelTable():
            return True
    return isinstance(
        operation,
        migrations.RemoveField | migrations.RenameField | migrations.DeleteModel | migrations.RenameModel,
    )


def test_no_migration_takes_from_a_process_of_the_release_before_what_it_uses():
    for (app, name), migration in MigrationLoader(None).disk_migrations.items():
        if app not in LAST_BEFORE or name[:4] <= LAST_BEFORE[app] or hasattr(migration, "contracts"):
            continue
        found = [operation.describe() for operation in migration.operations if takes_away(operation)]
        assert not found, f"{app}.{name}: {found}. {RULE}"


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (migrations.AddField("turn", "needs", models.SmallIntegerField(null=True)), False),
        (migrations.AddField("turn", "needs", models.SmallIntegerField(default=0)), True),
        (migrations.RemoveField("turn", "needs"), True),
        (migrations.SeparateDatabaseAndState(state_operations=[migrations.RemoveField("turn", "needs")]), False),
        (migrations.SeparateDatabaseAndState(database_operations=[migrations.RemoveField("turn", "needs")]), True),
        (migrations.RenameField("turn", "needs", "wants"), True),
        (migrations.DeleteModel("turn"), True),
        (migrations.CreateModel("turn", []), False),
        (migrations.AddIndex("turn", models.Index(fields=["seq"], name="seqs")), False),
    ],
)
def test_what_takes_something_away_is_known(operation: Operation, expected: bool):
    assert takes_away(operation) == expected
