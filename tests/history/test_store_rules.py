"""The rules that let one set of models live on every store (docs/adr/0001), read from the models and the code."""

import ast
from pathlib import Path

import pytest
from django.apps import apps
from django.db.models import BigIntegerField, Field, JSONField, Model, UUIDField
from django.db.models.fields import NOT_PROVIDED

import history

MODELS = list(apps.get_app_config("history").get_models())
SWEPT = {"conversation_deleted", "conversation_trashed", "turn_embedded", "turn_open", "import_open", "export_open"}
SWEPT |= {"share_expiring", "share_unsettled", "share_reported", "copy_by_age"}
"""Indexes of what is looked for whoever owns it, by sweeps and operators."""
CODE = [path for path in Path(history.__file__).parent.rglob("*.py") if "migrations" not in path.parts]
REFUSED = {"select_related", "select_for_update", "prefetch_related", "get_or_create", "update_or_create"}
"""What MongoDB does not do, does without saying so, or does with a join."""
COMMITS = {("tree.py", "start_conversation")}
"""Functions that may use a transaction, where a database has them: to save commits, never to be right."""

SQL_ALONE = {("sidebar.py", "_select_all")}
"""Functions that save statements where the store speaks SQL, beside another way for MongoDB."""


@pytest.mark.parametrize("model", MODELS)
def test_a_row_is_a_document_of_its_own_with_its_owner(model: type[Model]) -> None:
    assert isinstance(model._meta.pk, UUIDField)
    assert model._meta.pk.db_column == "_id"
    assert isinstance(model._meta.get_field("owner_id"), BigIntegerField)
    for field in model._meta.get_fields():
        assert isinstance(field, Field)
        assert not field.is_relation, f"{field}: a join"
        assert not isinstance(field, JSONField), f"{field}: MongoDB cannot be asked what is in it"
        assert field.db_default is NOT_PROVIDED, f"{field}: MongoDB has no defaults"
    assert not model._meta.many_to_many


@pytest.mark.parametrize("model", MODELS)
def test_indexes_begin_with_the_owner_and_are_plain(model: type[Model]) -> None:
    for index in model._meta.indexes:
        assert not index.expressions, f"{index.name}: no index of expressions"
        assert index.name in SWEPT or index.fields[0] == "owner_id", index.name
    for constraint in model._meta.constraints:
        assert getattr(constraint, "fields", ()), f"{constraint.name}: only unique fields"


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.name)
def test_nothing_relies_on_joins_locks_or_transactions(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            name = node.attr if isinstance(node, ast.Attribute) else ""
            assert name not in REFUSED, f"{path.name}, {function.name}: {name}"
            if name == "raw":
                assert (path.name, function.name) in SQL_ALONE, f"{path.name}, {function.name}: SQL"
            if name == "atomic":
                assert (path.name, function.name) in COMMITS, f"{path.name}, {function.name}: a transaction"
