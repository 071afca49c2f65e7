"""The real thing: web, runner, worker and Valkey as processes, on stores of their own, with a provider to talk to."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psycopg

from bench.provider import FakeProvider
from config import embedded
from tests.fakes.readers import Member
from tests.services import STORES, end, wait_for_port

ROOT = Path(__file__).resolve().parent.parent.parent


class Site:
    """`with Site(models) as site:` starts it; `kill` and `start` one process at a time."""

    def __init__(self, models: list[str], *, webs: int = 1, runners: int = 1, **environment: str) -> None:
        self.provider = FakeProvider()
        self._models = models
        self._folder = Path(tempfile.mkdtemp(prefix="tertulia-site-"))
        self._more = environment
        self._ports = {f"web{number}": embedded.any_free_port() for number in range(webs)}
        self._valkey = embedded.any_free_port()
        self._runners = [f"runner{number}" for number in range(runners)]
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Site":
        self.provider.__enter__()
        self.environment = self._environment()
        self.start("valkey")
        self.manage("prepare")
        for name in (*self._ports, *self._runners, "worker"):
            self.start(name)
        self.wait_until_ready()
        return self

    def __exit__(self, *_error: object) -> None:
        for child in reversed(self._children.values()):
            end(child)
        self.provider.__exit__(None, None, None)
        shutil.rmtree(self._folder, ignore_errors=True)

    # --- Processes ---------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start one process; a killed one comes back at the same address."""
        with (self._folder / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                self._command(name), cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )
        if name == "valkey":
            wait_for_port(self._valkey)
        elif name in self._ports:
            wait_for_port(self._ports[name])

    def kill(self, name: str) -> None:
        """Kill one process with -9."""
        child = self._children[name]
        child.send_signal(signal.SIGKILL)
        child.wait()

    def stop(self, name: str) -> None:
        end(self._children[name])

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in sorted(self._folder.glob("*.log")))

    def pid(self, name: str) -> int:
        return self._children[name].pid

    def port(self, number: int = 0) -> int:
        return self._ports[f"web{number}"]

    def wait_until_ready(self) -> None:
        """Return when `/readyz` says so."""
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port()}/readyz", timeout=5).close()
                return
            except OSError:
                assert time.monotonic() < deadline, self.logs()
                time.sleep(0.1)

    def _command(self, name: str) -> list[str]:
        if name == "valkey":
            return list(embedded.valkey(self._valkey, self._folder / "valkey").command)
        if name in self._ports:
            server = [sys.executable, "-m", "uvicorn", "config.asgi:application", "--port", str(self._ports[name])]
            return [*server, "--ws-per-message-deflate", "false", "--ws-max-size", "1048576", "--no-access-log"]
        if name == "worker":
            celery = [sys.executable, "-m", "celery", "--quiet", "-A", "config", "worker", "--beat"]
            return [*celery, "--pool", "threads", "--concurrency", "1", "--loglevel", "warning"]
        return [sys.executable, "manage.py", "run_turns"]

    def _environment(self) -> dict[str, str]:
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("COV_", "OPENAI_", "DATABASE_", "MONGODB_"))
        }
        return {
            **inherited,
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "SECRET_KEY": secrets.token_urlsafe(50),
            "DEBUG": "false",
            "LOG_FORMAT": "text",
            "DATA_DIR": str(self._folder),
            "REDIS_URL": f"redis://127.0.0.1:{self._valkey}/0",
            "OPENAI_COMPATIBLE_BASE_URL": self.provider.url,
            "OPENAI_COMPATIBLE_MODELS": ",".join(self._models),
            "OPENAI_COMPATIBLE_INPUT_PRICE": "1",
            "OPENAI_COMPATIBLE_OUTPUT_PRICE": "2",
            **self._store(),
            **self._more,
        }

    def _store(self) -> dict[str, str]:
        """Return the address of a store nobody has used."""
        name = f"site_{secrets.token_hex(4)}"
        if STORES == "postgresql":
            address = os.environ["DATABASE_URL"]
            with psycopg.connect(address, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            return {"DATABASE_URL": address.replace("/postgres", f"/{name}", 1)}
        if STORES == "mongodb":
            return {"MONGODB_URI": os.environ["MONGODB_URI"], "MONGODB_DATABASE": name}
        return {}

    # --- People and rows ---------------------------------------------------------------------------------------------

    def members(self, count: int, *, plan: dict[str, Any] | None = None) -> list[Member]:
        """Return new members; on a plan with the given fields, else on Free."""
        answer = self.manage_script("members", json.dumps({"count": count, "plan": plan}))
        return [Member(access, self.port) for access in answer]

    def audit(self) -> dict[str, Any]:
        """Return every turn and what the ledger says, as the databases have it."""
        found: dict[str, Any] = self.manage_script("audit", "")
        return found

    def manage(self, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments], cwd=ROOT, env=self.environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()

    def manage_script(self, name: str, argument: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "tests.processes.scripts", name, argument],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)
