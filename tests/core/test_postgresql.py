"""PostgreSQL's connections: cut between two statements, in the middle of one, for a while, or silent."""

import datetime as dt
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import Any, TypeVar

import psycopg
import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import (
    DataError,
    OperationalError,
    ProgrammingError,
    close_old_connections,
    connection,
    connections,
    transaction,
)
from django.db.models.signals import pre_migrate
from django.db.transaction import TransactionManagementError

from accounts.models import User
from core import rows
from core.postgresql import pool
from core.threads import in_thread

pytestmark = [
    pytest.mark.stores,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="needs STORES=postgresql or production"),
    pytest.mark.django_db(transaction=True, databases=["default", "history"]),
]

T = TypeVar("T")
ALIASES = [alias for alias in connections if connections[alias].vendor == "postgresql"]
SLEEPS = "wait_event = 'PgSleep'"


def in_threads(count: int, function: Callable[[], T]) -> list[T]:
    """Run the function in so many threads at once, each with connections of its own, as requests are."""
    ready = threading.Barrier(count)

    def run(_number: int) -> T:
        ready.wait(10)
        try:
            return function()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as executor:
        return list(executor.map(run, range(count)))


def fill_pools(size: int = 4) -> None:
    """Leave so many idle connections in each pool."""
    together = threading.Barrier(size)

    def use() -> None:
        for alias in ALIASES:
            connections[alias].ensure_connection()
            together.wait(10)
        connections.close_all()

    in_threads(size, use)


def cut_connections(condition: str = "true") -> int:
    """Cut every connection to our databases, or those that meet the condition, as a restart of the server does; return
    how many. Other tests use the server, too."""
    ours = [connections[alias].settings_dict["NAME"] for alias in ALIASES]
    cut = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = ANY(%s)"
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as operator:
        found = operator.execute(f"{cut} AND {condition}", [ours]).fetchone()
    assert found is not None
    return int(found[0])


def cut_the_sleeper() -> threading.Thread:
    """Cut the connection that sleeps, once one does."""

    def cut() -> None:
        while not cut_connections(SLEEPS):
            sleep(0.01)

    cutting = threading.Thread(target=cut)
    cutting.start()
    return cutting


@pytest.fixture
def executions() -> Iterator[Callable[[], int]]:
    """Return a function that says how often something was counted, whatever became of its transaction."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SEQUENCE executions")
    yield lambda: one_value("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM executions")
    with connection.cursor() as cursor:
        cursor.execute("DROP SEQUENCE executions")


def one_value(query: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


# --- Cut between two statements ---------------------------------------------------------------------------------------


def test_after_every_connection_was_cut_every_request_is_answered(ana, api):
    fill_pools()
    assert cut_connections() >= 4 * len(ALIASES)
    statuses = [in_threads(1, lambda: api(ana).get("/api/v1/conversations").status_code)[0] for _ in range(8)]
    assert statuses == [200] * 8


def test_after_every_connection_was_cut_every_write_succeeds(ana, api):
    fill_pools()
    cut_connections()
    statuses = [
        in_threads(1, lambda: api(ana).patch("/api/v1/me", {"locale": "en"}, format="json").status_code)[0]
        for _ in range(8)
    ]
    assert statuses == [200] * 8


def test_a_request_goes_on_after_its_connection_was_cut_between_two_statements(ana):
    cut_connections()
    assert User.objects.filter(pk=ana.pk).update(locale="en") == 1
    cut_connections()
    with transaction.atomic():
        assert User.objects.get().locale == "en"


async def test_after_every_connection_was_cut_work_in_threads_succeeds():
    await in_thread(fill_pools)
    await in_thread(cut_connections)
    for _ in range(8):
        assert await in_thread(User.objects.count) == 0


# --- Cut in the middle of one -----------------------------------------------------------------------------------------


def test_a_read_whose_connection_is_cut_is_read_again(executions):
    cutting = cut_the_sleeper()
    assert one_value("SELECT CASE WHEN nextval('executions') = 1 THEN pg_sleep(20)::text ELSE 'read' END") == "read"
    cutting.join()
    assert executions() == 2


def test_a_write_whose_connection_is_cut_is_not_written_again(executions):
    cutting = cut_the_sleeper()
    with pytest.raises(OperationalError), connection.cursor() as cursor:
        cursor.execute("CREATE TABLE slow AS SELECT nextval('executions'), pg_sleep(20)::text")
    cutting.join()
    assert executions() == 1


def test_the_first_statement_of_a_transaction_is_repeated_and_a_later_one_is_not(executions):
    slow = "SELECT CASE WHEN nextval('executions') = 1 THEN pg_sleep(20)::text ELSE 'read' END"
    cutting = cut_the_sleeper()
    with transaction.atomic():
        assert one_value(slow) == "read"
        assert not connection.get_autocommit()
    cutting.join()
    with connection.cursor() as cursor:
        cursor.execute("ALTER SEQUENCE executions RESTART")
    cutting = cut_the_sleeper()
    with pytest.raises(OperationalError), transaction.atomic():
        one_value("SELECT 1")
        one_value(slow)
    cutting.join()
    assert executions() == 1


# --- The server does not come back at once ----------------------------------------------------------------------------


@contextmanager
def nobody_let_in() -> Iterator[None]:
    """Meanwhile the server takes no new connection, as in the second in which it restarts."""
    connection.ensure_connection()
    connection.pool.close()
    let_in(False)
    try:
        yield
    finally:
        let_in(True)


def let_in(is_allowed: bool) -> None:
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as operator:
        operator.execute(f'ALTER DATABASE "{connection.settings_dict["NAME"]}" ALLOW_CONNECTIONS {is_allowed}')


def test_a_statement_that_cannot_be_repeated_yet_is_an_operational_error_and_so_is_the_next():
    with nobody_let_in():
        cutting = cut_the_sleeper()
        with pytest.raises(OperationalError):
            one_value("SELECT pg_sleep(20)")
        cutting.join()
        with pytest.raises(OperationalError):
            one_value("SELECT 1")
        close_old_connections()
    assert one_value("SELECT 1") == 1


def test_a_transaction_whose_connection_is_lost_does_not_go_on_without_one():
    with nobody_let_in():
        cutting = cut_the_sleeper()
        with pytest.raises(ProgrammingError), transaction.atomic():
            with suppress(OperationalError):
                one_value("SELECT pg_sleep(20)")
            cutting.join()
            let_in(True)
            one_value("SELECT 1")
    with transaction.atomic():
        assert one_value("SELECT 1") == 1


def test_a_connection_that_was_cut_after_the_work_was_done_is_given_back_without_an_error():
    with nobody_let_in():
        assert one_value("SELECT 1") == 1
        cut_connections()
        close_old_connections()


def test_a_connection_that_cannot_even_be_closed_leaves_its_place(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "CHECKOUT_SECONDS", 0.1)
    few = pool.Pool(connection.pool._connect, size=1)
    held = few.getconn()
    held.autocommit = False
    held.execute("SELECT 1")
    with monkeypatch.context() as patch, pytest.raises(psycopg.OperationalError, match="broken"):
        patch.setattr(held, "close", lambda: (_ for _ in ()).throw(psycopg.OperationalError("broken")))
        few.putconn(held)
    held.close()
    few.putconn(few.getconn())
    few.close()


# --- Past the cursors -------------------------------------------------------------------------------------------------


def test_values_are_bound_by_the_server_and_nothing_is_prepared_there():
    own = "FROM pg_stat_activity WHERE pid = pg_backend_pid() AND state = %s AND query_start < %s"
    for _ in range(8):  # psycopg prepares what it was given five times
        [(query,)] = rows.fetch(User, f"SELECT query {own}", ["active", dt.datetime.max.replace(tzinfo=dt.UTC)])
        assert query == f"SELECT query {own}".replace("%s", "$1", 1).replace("%s", "$2")
    assert one_value("SELECT count(*) FROM pg_prepared_statements") == 0


def test_what_a_driver_refuses_is_an_error_of_djangos_and_ends_the_transaction(ana):
    for value, error in (("a\0b", DataError), (object(), ProgrammingError)):
        with transaction.atomic():
            with pytest.raises(error):
                rows.execute(User, "UPDATE accounts_user SET name = %s", [value])
            with pytest.raises(TransactionManagementError):
                rows.find(User, pk=ana.pk)
    assert rows.find(User, pk=ana.pk) == ana


# --- Silent -----------------------------------------------------------------------------------------------------------


def test_a_statement_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch):
    connection.ensure_connection()
    monkeypatch.setattr(connection.connection, "statement_seconds", 0.2)
    begun = monotonic()
    with pytest.raises(OperationalError, match="No answer after 0.2 s"):
        one_value("SELECT pg_sleep(20)")
    assert monotonic() - begun < 15
    assert one_value("SELECT 1") == 1
    assert cut_connections(SLEEPS) == 0  # it was cancelled


def test_a_slow_statement_costs_the_others_nothing():
    few = pool.Pool(connection.pool._connect, size=2)
    slow, other = few.getconn(), few.getconn()
    few.putconn(other)
    slow.statement_seconds = 0.1
    with pytest.raises(pool.StatementTimeout):
        slow.execute("SELECT pg_sleep(20)")
    few.putconn(slow)
    assert slow.closed
    assert few.getconn() is other
    few.putconn(other)
    few.close()


def test_a_connection_that_is_in_use_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "CHECKOUT_SECONDS", 0.1)
    few = pool.Pool(connection.pool._connect, size=1)
    held = few.getconn()
    with pytest.raises(psycopg.OperationalError, match="in use"):
        few.getconn()
    few.putconn(held)
    assert few.getconn() is held
    few.putconn(held)
    few.close()
    assert held.closed


def test_a_connection_that_comes_back_in_a_transaction_is_not_used_again():
    few = pool.Pool(connection.pool._connect, size=1)
    held = few.getconn()
    held.autocommit = False
    held.execute("SELECT 1")
    few.putconn(held)
    assert held.closed
    few.putconn(few.getconn())
    few.close()


def test_a_connection_nobody_needs_is_closed(monkeypatch: pytest.MonkeyPatch):
    few = pool.Pool(connection.pool._connect, size=2)
    first, second = few.getconn(), few.getconn()
    few.putconn(first)
    monkeypatch.setattr(pool, "IDLE_SECONDS", -1)
    few.putconn(second)
    assert first.closed
    few.close()


def test_the_statements_of_a_migration_may_take_their_time():
    limits = []

    def note(using: str, **_signal: Any) -> None:
        limits.append(connections[using].connection.statement_seconds)

    pre_migrate.connect(note, sender=apps.get_app_config("accounts"))
    try:
        for alias in ALIASES:
            call_command("migrate", database=alias, verbosity=0, interactive=False)
            assert connections[alias].connection.statement_seconds == pool.STATEMENT_SECONDS
    finally:
        pre_migrate.disconnect(note, sender=apps.get_app_config("accounts"))
    assert limits == [None] * len(ALIASES)
