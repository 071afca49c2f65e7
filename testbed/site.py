"""A whole site for tests and the bench: web, runner, worker and Valkey as processes, with stores of their own."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from config.embedded import ports, services

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 90
STOP_SECONDS = 15
DIVIDER = f"\n{'-' * 79}\n"
"""What Django writes after each mail in a file."""


class Site:
    """`with Site(provider_url, models) as site:` starts it; `start`, `kill` and `stop` act on one process.

    `models` are names that the provider at `provider_url` understands. There is no worker if `workers` is 0. `cores`
    pins every process. `environment` is added to the processes', such as a DATABASE_URL; without one the databases are
    SQLite in a temporary folder, which begins as a copy of those in the folder `databases` if one is given.
    """

    def __init__(
        self,
        provider_url: str,
        models: Iterable[str],
        *,
        webs: int = 1,
        runners: int = 1,
        workers: int = 1,
        cores: set[int] | None = None,
        environment: dict[str, str] | None = None,
        databases: Path | None = None,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tertulia-site-"))
        for database in databases.glob("*.sqlite3") if databases else ():
            shutil.copy(database, self._folder)
        self._ports = {f"web{number}": ports.any_free_port() for number in range(webs)}
        self._metrics_ports: dict[str, int] = {}
        self._valkey, self._password = ports.any_free_port(), services.new_password()
        self._runners = [f"runner{number}" for number in range(runners)]
        self._workers = ["worker"] if workers else []
        self._pin: Callable[[], None] | None = (lambda: os.sched_setaffinity(0, cores)) if cores else None
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._command_lock = threading.Lock()
        self.environment = self._environment(provider_url, models) | (environment or {})

    def __enter__(self) -> Self:
        try:
            self._spawn("commands")
            self.start("valkey")
            self._run_command("prepare")
            for name in (*self._ports, *self._runners, *self._workers):
                self._spawn(name)
            for port in self._ports.values():
                wait_for_port(port)
            self.wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        for name, child in self._children.items():
            if name != "valkey":  # the others need it to stop in order
                child.terminate()
        for name in reversed(self._children):
            self.stop(name)
        shutil.rmtree(self._folder, ignore_errors=True)

    # --- Processes ---------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start one process; after `kill` it has the same address again."""
        self._spawn(name)
        if port := {**self._ports, "valkey": self._valkey}.get(name):
            wait_for_port(port)

    def kill(self, name: str) -> None:
        """Kill one process with SIGKILL, with what it has started: a worker's beat is a process of its own."""
        child = self._children[name]
        started = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        child.send_signal(signal.SIGKILL)
        child.wait()
        for pid in map(int, started):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self, name: str) -> None:
        """Stop one process with SIGTERM, and with SIGKILL if it takes too long."""
        child = self._children[name]
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in sorted(self._folder.glob("*.log")))

    def mails_to(self, address: str) -> list[str]:
        """Return the mails that were sent to somebody, the oldest first. Django names a file after the second and the
        address of an object, which the next mail may have too: a file may hold mails to several people."""
        paths = sorted((self._folder / "mail").glob("*"), key=lambda path: path.stat().st_mtime_ns)
        mails = [mail for path in paths for mail in path.read_text().split(DIVIDER)]
        return [mail for mail in mails if f"\nTo: {address}\n" in mail]

    def is_alive(self, name: str) -> bool:
        return self._children[name].poll() is None

    def pid(self, name: str) -> int:
        return self._children[name].pid

    def port(self, number: int = 0) -> int:
        return self._ports[f"web{number}"]

    def read_metrics(self, name: str, path: str = "/metrics", token: str = "") -> str:
        """Return what a process shows to Prometheus."""
        address = f"http://127.0.0.1:{self._metrics_ports[name]}{path}"
        request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"} if token else {})
        with urllib.request.urlopen(request, timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def wait_until_ready(self) -> None:
        """Return when `/readyz` says so."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port()}/readyz", timeout=5).close()
                return
            except OSError:
                assert time.monotonic() < deadline, self.logs()
                time.sleep(0.1)

    def _spawn(self, name: str) -> None:
        is_asked = name == "commands"
        with (self._folder / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                self._command(name),
                cwd=ROOT,
                env=self.environment | self._own_environment(name),
                stdin=subprocess.PIPE if is_asked else None,
                stdout=subprocess.PIPE if is_asked else log,
                stderr=log,
                preexec_fn=self._pin,
            )

    def _own_environment(self, name: str) -> dict[str, str]:
        if name in ("commands", "valkey"):
            return {}
        return {"METRICS_ADDRESS": f"127.0.0.1:{self._metrics_ports.setdefault(name, ports.any_free_port())}"}

    def _command(self, name: str) -> list[str]:
        if name == "valkey":
            return list(services.valkey(self._valkey, self._password, self._folder / "valkey").command)
        if name in self._ports:
            return [sys.executable, "manage.py", "run_web", "--port", str(self._ports[name])]
        if name == "worker":
            celery = [sys.executable, "-m", "celery", "--quiet", "-A", "config", "worker", "--beat"]
            return [*celery, "--pool", "threads", "--concurrency", "3", "--loglevel", "warning"]
        if name == "commands":
            return [sys.executable, "-m", "testbed.site_commands"]
        return [sys.executable, "manage.py", "run_turns"]

    def _environment(self, provider_url: str, models: Iterable[str]) -> dict[str, str]:
        providers = ("OPENAI_", "ANTHROPIC_", "GEMINI_", "DEEPSEEK_", "DEMO_")
        foreign = ("COV_", "DATABASE_", "MONGODB_", "STRIPE_", "MERCADOPAGO_", "SIMULATED_", *providers)
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(foreign)},
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "SECRET_KEY": secrets.token_urlsafe(50),
            "DEBUG": "false",
            "SITE_URL": f"http://localhost:{self.port()}",
            "LOG_FORMAT": "text",
            "DATA_DIR": str(self._folder),
            "REDIS_URL": services.valkey_address(self._valkey, self._password),
            "EMAIL_URL": f"filemail:///{self._folder}/mail",  # its first slash is taken off
            "CACHE_TTL": "0",  # the same question is asked many times, and must reach the provider each time
            "MODEL_TITLES": "false",  # only questions reach the provider
            "REQUIRE_VERIFIED_EMAIL": "false",  # who signs up here is in at once
            "ADMIN_REQUIRES_SECOND_FACTOR": "false",  # the operators of the tests have sessions that are made
            "OPENAI_COMPATIBLE_BASE_URL": provider_url,
            "OPENAI_COMPATIBLE_MODELS": ",".join(models),
            "OPENAI_COMPATIBLE_INPUT_PRICE": "1",
            "OPENAI_COMPATIBLE_OUTPUT_PRICE": "2",
        }

    # --- People and rows ---------------------------------------------------------------------------------------------

    def create_members(self, count: int, *, plan: Mapping[str, object] | None = None) -> list[str]:
        """Return the access tokens of new members, on a plan with the given fields, else on Free."""
        access_tokens: list[str] = self._run_command("create_members", count=count, plan=plan)
        return access_tokens

    def create_operator(self) -> str:
        """Return the access token of a new operator."""
        access_token: str = self._run_command("create_operator")
        return access_token

    def confirm_address(self, email: str) -> None:
        """Do what the link in the mail of a sign-up does."""
        self._run_command("confirm_address", email=email)

    def create_sessions(self, access_tokens: list[str]) -> list[str]:
        """Return a session key for each access token: the value of a browser's cookie."""
        keys: list[str] = self._run_command("create_sessions", access_tokens=access_tokens)
        return keys

    def log_in_again(self, access_token: str) -> dict[str, str]:
        """Log the owner of an access token in once more; return its `access` and `refresh` tokens."""
        tokens: dict[str, str] = self._run_command("log_in_again", access_token=access_token)
        return tokens

    def account_id_of(self, access_token: str) -> int:
        """Return the id of the billing account of an access token's owner."""
        account_id: int = self._run_command("account_id_of", access_token=access_token)
        return account_id

    def end_access_silently(self, access_token: str) -> None:
        """Log the owner of an access token out everywhere, and let every notification of it get lost."""
        self._run_command("end_access_silently", access_token=access_token)

    def create_conversation(self, access_token: str, turns: int) -> str:
        """Return the id of a new conversation with so many finished turns."""
        conversation_id: str = self._run_command("create_conversation", access_token=access_token, turns=turns)
        return conversation_id

    def offer(self, *models: Mapping[str, object]) -> None:
        """Create or change models, each by its key."""
        self._run_command("offer", models=models)

    def audit(self) -> dict[str, Any]:
        """Return every turn, reservation and usage record of the databases."""
        report: dict[str, Any] = self._run_command("audit")
        return report

    def ledger(self) -> dict[str, Any]:
        """Return the part of `audit` that stays short however long the site has run."""
        report: dict[str, Any] = self._run_command("ledger")
        return report

    def fill_history(self, access_token: str, chats: int) -> None:
        """Give the owner of an access token so many conversations of ten turns, made up."""
        self._run_command("fill_history", access_token=access_token, chats=chats)

    def finish_history(self) -> dict[str, Any]:
        """Make the indexes of what was filled in; return what `testbed.site_commands` says of it."""
        report: dict[str, Any] = self._run_command("finish_history")
        return report

    def scan_history(self, access_token: str, query: str) -> float:
        """Return how many milliseconds the store takes to look at all of that person's texts."""
        milliseconds: float = self._run_command("scan_history", access_token=access_token, query=query)
        return milliseconds

    def count_rows(self) -> int:
        """Return how many rows the default database has."""
        count: int = self._run_command("count_rows")
        return count

    def _run_command(self, name: str, **arguments: object) -> Any:
        """Run one function of `testbed.site_commands` in this site's environment; return what it returns."""
        process = self._children["commands"]
        assert process.stdin is not None
        assert process.stdout is not None
        with self._command_lock:
            process.stdin.write(json.dumps([name, arguments]).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        assert line, self.logs()
        result = json.loads(line)
        assert "error" not in result, result["error"]
        return result["value"]


def wait_for_port(port: int) -> None:
    """Return when something answers on the port."""
    deadline = time.monotonic() + START_SECONDS
    while ports.is_free(port):
        if time.monotonic() > deadline:
            raise TimeoutError(f"Nothing answers on port {port}.")
        time.sleep(0.05)
