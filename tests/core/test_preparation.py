"""Processes refuse databases that are not as far as their code, in one sentence, and take those that are further."""

import copy
from collections.abc import Callable, Iterator

import pytest
from celery.signals import beat_init, worker_init
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder

from config.database_routers import COPY
from config.management.commands import run_web
from core.half_restored import mark_half_restored, mark_restored
from core.preparation import MARK, NotPrepared, check_prepared, mark_prepared
from tests.services import STORES

pytestmark = [pytest.mark.stores, pytest.mark.django_db(databases=["default", "history"])]


@pytest.fixture(autouse=True)
def marked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(connections, "close_all", lambda: None)  # the test's transaction is in them
    before = {alias: applied(alias) for alias in ("default", "history")}
    mark_prepared()
    yield
    for alias, names in before.items():  # with MongoDB no database takes back what a test did
        for name in applied(alias) - names:
            recorder(alias).record_unapplied(*name)
        for name in names - applied(alias):
            recorder(alias).record_applied(*name)


def applied(alias: str) -> set[tuple[str, str]]:
    return set(recorder(alias).migration_qs.values_list("app", "name"))


def recorder(alias: str) -> MigrationRecorder:
    return MigrationRecorder(connections[alias])


def refusal() -> str:
    with pytest.raises(NotPrepared) as raised:
        check_prepared()
    return str(raised.value)


def test_databases_that_lack_something_of_this_release_are_refused():
    check_prepared()
    recorder("history").record_unapplied("history", "0017_turn_needs")
    found = refusal()
    assert found == (
        "The databases are not ready for this release (history: history.0017_turn_needs not applied): "
        "run `manage.py prepare`."
    )
    recorder("default").record_unapplied("chat", "0011_no_temperature")
    recorder("default").record_unapplied("billing", "0017_batches")
    assert "(default: billing.0017_batches and 1 more not applied)" in refusal()


def test_a_run_that_did_not_come_to_its_end_is_refused():
    connections["default"].cursor().execute(f"DELETE FROM django_migrations WHERE app = '{MARK}'")
    assert "(the last run did not come to its end)" in refusal()
    mark_prepared()
    mark_prepared()
    check_prepared()
    assert [app for app, _name in recorder("default").applied_migrations()].count(MARK) == 1


def test_half_of_a_backup_is_refused():
    word = mark_half_restored()
    assert refusal().startswith("The databases are half restored")
    mark_restored(word)
    check_prepared()


def test_databases_that_are_further_serve_the_release_before():
    recorder("default").record_applied("billing", "9999_what_the_next_release_adds")
    recorder("default").record_applied(MARK, "the next release")
    check_prepared()


def test_a_database_that_is_away_stops_no_process(monkeypatch: pytest.MonkeyPatch):
    def fail(*_args: object) -> None:
        raise OperationalError

    monkeypatch.setattr(MigrationRecorder, "applied_migrations", fail)
    check_prepared()


@pytest.mark.parametrize(
    ("begin", "error"),
    [
        (lambda: call_command("run_web"), CommandError),
        (lambda: call_command("run_turns"), CommandError),
        (lambda: worker_init.send(None), SystemExit),
        (lambda: beat_init.send(None), SystemExit),
    ],
    ids=["web", "runner", "worker", "beat"],
)
def test_every_process_asks_before_it_begins(
    begin: Callable[[], object], error: type[BaseException], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(run_web.WebServer, "run", lambda _server: None)
    recorder("default").record_unapplied("billing", "0017_batches")
    with pytest.raises(error, match="billing.0017_batches"):
        begin()


@pytest.mark.skipif(STORES != "mongodb", reason="others take back what a migration has done that did not end")
def test_a_migration_that_died_is_repeated_on_mongodb():
    settings = copy.deepcopy(connections["history"].settings_dict) | {"NAME": "test_migrations_twice"}
    connection = type(connections["history"])(settings, COPY)
    connections[COPY] = connection
    try:
        executor = MigrationExecutor(connection)
        state = executor._create_project_state(with_applied_migrations=True)
        for migration, _is_backwards in executor.migration_plan(executor.loader.graph.leaf_nodes("history")):
            before = state.clone()
            executor.apply_migration(state, migration)
            executor.recorder.record_unapplied("history", migration.name)
            state = executor.apply_migration(before, migration)
    finally:
        connection.get_database().client.drop_database("test_migrations_twice")
        connection.close()
        del connections[COPY]
