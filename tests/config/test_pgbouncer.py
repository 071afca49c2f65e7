"""The history shares PostgreSQL with the accounts behind PgBouncer, which gives each transaction another connection."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connections

from config.embedded import ports
from config.management.commands.smoke import check_history
from history.models import Conversation
from testbed.site import wait_for_port
from tests.services import IS_EXTERNAL, SCRATCH, STORES, end

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")

pytestmark = [
    pytest.mark.stores,
    pytest.mark.skipif(STORES != "postgresql", reason="needs STORES=postgresql"),
    pytest.mark.skipif(IS_EXTERNAL, reason="needs a PostgreSQL that asks for no password"),
    pytest.mark.skipif(not PGBOUNCER, reason="PgBouncer is not installed"),
    pytest.mark.django_db(transaction=True, databases=["default", "history"]),
]

CONFIGURATION = """\
[databases]
bounced = host={host} port=5432 dbname=bounced user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
"""


@pytest.fixture
def pgbouncer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lead the history through a PgBouncer to a database that is empty."""
    host, port = connections["default"].settings_dict["OPTIONS"]["host"], ports.any_free_port()
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as operator:
        operator.execute("CREATE DATABASE bounced")
    file = SCRATCH / "pgbouncer.ini"
    SCRATCH.chmod(0o755)  # the server's own user reads it
    file.write_text(CONFIGURATION.format(host=host, port=port))
    owner = os.stat(host).st_uid if os.geteuid() == 0 else None  # it refuses to be root
    file.chmod(0o644)
    process = subprocess.Popen([PGBOUNCER, file], user=owner, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        with monkeypatch.context() as patch:
            for name, value in {"HOST": "127.0.0.1", "PORT": str(port), "NAME": "bounced"}.items():
                patch.setitem(connections.settings["history"], name, value)
            forget_connections()
            yield
        forget_connections()
    finally:
        end(process)
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as operator:
        operator.execute("DROP DATABASE bounced")


def forget_connections() -> None:
    connections["history"].close()
    connections["history"].close_pool()


def test_the_history_has_its_schema_behind_a_pooler_of_transactions(pgbouncer):
    for _again in range(2):
        call_command("migrate", database="history", verbosity=0, interactive=False)

    def use(_number: int) -> None:
        for _again in range(4):
            check_history()
        connections.close_all()

    with ThreadPoolExecutor(6) as executor:  # more than PgBouncer has connections
        list(executor.map(use, range(6)))
    assert Conversation.objects.count() == 0
    with connections["history"].cursor() as cursor:
        cursor.execute("SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('history', 'public')")
        tables = {"django_migrations", *(model._meta.db_table for model in apps.get_app_config("history").get_models())}
        assert sorted(cursor.fetchall()) == [("history", name) for name in sorted(tables)]
