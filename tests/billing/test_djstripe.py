"""dj-stripe's tables, which one migration of ours makes."""

import os
from importlib.metadata import version
from typing import Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection
from django.test import override_settings

from billing.gateways.stripe.djstripe_migrations import MADE_FROM


def schema() -> dict[str, Any]:
    """Return the columns, keys and indexes of dj-stripe's tables, in words that do not depend on names of indexes."""
    found = {}
    with connection.cursor() as cursor:
        for table in sorted(connection.introspection.table_names(cursor)):
            if not table.startswith("djstripe_"):
                continue
            columns = connection.introspection.get_table_description(cursor, table)
            constraints = connection.introspection.get_constraints(cursor, table).values()
            found[table] = (
                sorted((column.name, column.type_code, column.null_ok, column.internal_size) for column in columns),
                sorted(str(sorted((key, str(value)) for key, value in rule.items())) for rule in constraints),
            )
    return found


def test_the_migration_was_made_from_the_installed_djstripe() -> None:
    assert version("dj-stripe") == MADE_FROM, "see billing/gateways/stripe/djstripe_migrations/__init__.py"


@pytest.mark.stores
@pytest.mark.django_db
def test_every_model_of_djstripe_has_its_table() -> None:
    tables = set(connection.introspection.table_names())
    assert {model._meta.db_table for model in apps.get_app_config("djstripe").get_models()} <= tables


@pytest.mark.timeout(0)  # it is minutes of work, and a busy machine takes many times as long
@pytest.mark.skipif("CHECK_DJSTRIPE" not in os.environ, reason="dj-stripe's own migrations take a minute")
@pytest.mark.django_db(transaction=True)
def test_our_migration_makes_the_schema_that_djstripes_own_make() -> None:
    ours = schema()
    call_command("migrate", "djstripe", "zero", verbosity=0)
    assert schema() == {}
    with override_settings(MIGRATION_MODULES={}):
        call_command("migrate", "djstripe", verbosity=0)
        theirs = schema()
        # Back by name alone: to undo theirs takes as long again, and the tables are the same.
        call_command("migrate", "djstripe", "zero", fake=True, verbosity=0)
    call_command("migrate", "djstripe", fake=True, verbosity=0)
    assert len(ours) > 50
    assert ours == theirs
