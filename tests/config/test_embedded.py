"""The processes of one machine: kept running, stopped together, and never left behind."""

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from django.core.management import CommandError, call_command
from pytest_django import Settings

from config.embedded import supervision
from config.embedded.addresses import remove_addresses, write_addresses
from config.embedded.data_dir_lock import AlreadyRunningError, lock_data_dir, one_at_a_time
from config.embedded.services import find_needed
from config.embedded.supervision import NotReadyError, Process, Supervisor
from config.management.commands import run_web, serve
from tests.services import IS_EXTERNAL

ROOT = Path(__file__).parent.parent.parent
FIRST_RUN = ROOT / "config" / "embedded" / "first_run.py"

# Supervises a process that starts another and prints both ids, until it is killed.
SUPERVISE = """
import asyncio
from pathlib import Path
from config.embedded.supervision import Process, Supervisor

async def main():
    async with Supervisor(Path.cwd()) as supervisor:
        supervisor.start_soon(Process("two", ["sh", "-c", "sleep 600 & echo $$ $!; wait"]))
        await asyncio.Event().wait()

asyncio.run(main())
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_mercado_pago_is_simulated_where_it_has_no_token(tmp_path: Path):
    configured = {"REDIS_URL": "redis://x", "DEMO_MODEL_URL": "", "STRIPE_SECRET_KEY": "sk_test_1"}
    needed = find_needed({**configured, "MERCADOPAGO_COUNTRY": "br"}, tmp_path, simulates_for="http://127.0.0.1:8000")
    (process,) = needed.gateways
    assert "http://127.0.0.1:8000/webhooks/mercadopago/" in process.command
    assert process.environment["NOTICE_SECRET"] == needed.environment["MERCADOPAGO_WEBHOOK_SECRET"]
    assert needed.environment["MERCADOPAGO_ACCESS_TOKEN"] == "TEST-simulated-BR"
    with_token = {**configured, "MERCADOPAGO_ACCESS_TOKEN": "APP_USR-1"}
    assert find_needed(with_token, tmp_path, simulates_for="http://127.0.0.1:8000").gateways == ()
    assert find_needed(configured, tmp_path).gateways == ()


async def test_what_a_process_prints_is_returned_with_its_exit_code(tmp_path: Path):
    async with Supervisor(tmp_path, output=io.BytesIO()) as supervisor:
        assert await supervisor.run(Process("p", ["sh", "-c", "echo one; echo two >&2; exit 3"])) == (3, "one\ntwo")


async def test_a_process_that_dies_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(supervision, "FIRST_RESTART_SECONDS", 0.01)
    output = io.BytesIO()
    async with Supervisor(tmp_path, output=output) as supervisor:
        await supervisor.start(Process("p", ["sh", "-c", "echo started"]))
        while output.getvalue().count(b"started") < 2:
            await asyncio.sleep(0.01)
    assert b"p ended (exit code 0): starting it again" in output.getvalue()


async def test_a_process_that_never_gets_ready_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(supervision, "FIRST_RESTART_SECONDS", 0.01)

    async def never() -> bool:
        return False

    async with Supervisor(tmp_path, output=io.BytesIO()) as supervisor:
        with pytest.raises(NotReadyError, match=r"p does not start \(exit code 1\)"):
            await supervisor.start(Process("p", ["false"], probe=never))


async def test_a_process_that_ignores_the_request_to_stop_is_killed(tmp_path: Path):
    output = io.BytesIO()
    async with Supervisor(tmp_path, output=output) as supervisor:
        stubborn = ["sh", "-c", "trap '' TERM; echo $$; while :; do sleep 600; done"]
        await supervisor.start(Process("p", stubborn, stop_seconds=0.1))
        while not output.getvalue():
            await asyncio.sleep(0.01)
        pid = int(output.getvalue().split()[-1])
        assert is_running(pid)
    assert not is_running(pid)


def test_nothing_outlives_a_supervisor_that_is_killed():
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISE], cwd=ROOT, stdout=subprocess.PIPE)
    assert supervisor.stdout
    pids = [int(pid) for pid in supervisor.stdout.readline().split()[-2:]]
    assert all(map(is_running, pids))
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    supervisor.stdout.close()
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_what_prepare_says_of_a_new_installation_is_passed_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    says = Process("prepare", [sys.executable, "-c", "print('A limit was set.')"])
    monkeypatch.setattr(serve, "Process", lambda *_args: says)
    async with Supervisor(tmp_path) as supervisor:
        await serve.prepare_release(supervisor)
    assert "serve | A limit was set." in capfd.readouterr().out


def test_two_sites_do_not_share_a_data_folder(tmp_path: Path):
    lock = lock_data_dir(tmp_path)
    with pytest.raises(AlreadyRunningError):
        lock_data_dir(tmp_path)
    os.close(lock)
    os.close(lock_data_dir(tmp_path))


def test_of_two_that_prepare_at_once_the_second_waits(tmp_path: Path):
    began = threading.Event()

    def prepare() -> None:
        with one_at_a_time(tmp_path, "prepare"):
            began.set()

    with ThreadPoolExecutor(1) as executor:
        with one_at_a_time(tmp_path, "prepare"):
            second = executor.submit(prepare)
            assert not began.wait(0.3)
        second.result(10)


def test_only_this_user_reads_the_addresses(tmp_path: Path):
    (tmp_path / "services.env").touch(mode=0o644)  # of an earlier version
    write_addresses({"REDIS_URL": "redis://:secret@ours"}, tmp_path)
    assert (tmp_path / "services.env").stat().st_mode & 0o777 == 0o600


def test_the_embedded_valkey_has_a_password_that_no_list_of_processes_shows(tmp_path: Path):
    found = [find_needed({"DEMO_MODEL_URL": ""}, tmp_path) for _ in range(2)]
    passwords = {urlsplit(one.environment["REDIS_URL"]).password for one in found}
    assert len(passwords) == 2
    for one in found:
        [valkey] = one.stores
        assert not any(password in argument for argument in valkey.command for password in passwords)
    assert (tmp_path / "valkey" / "valkey.conf").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "valkey").stat().st_mode & 0o777 == 0o700  # its log has the keys of sessions


@pytest.mark.skipif(IS_EXTERNAL, reason="needs the Valkey of the tests")
def test_nobody_reads_the_embedded_valkey_without_its_password():
    port = urlsplit(os.environ["REDIS_URL"]).port  # which the tests start as a site does
    with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_addresses_are_removed_with_what_was_read_from_them(tmp_path: Path):
    write_addresses({"REDIS_URL": "redis://ours", "SITE_URL": "http://ours"}, tmp_path)
    environment = {"REDIS_URL": "redis://ours", "SITE_URL": "http://another"}
    remove_addresses(environment, tmp_path)
    assert environment == {"SITE_URL": "http://another"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        *[("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.9.9.9", True)],
        *[("0.0.0.0", False), ("::", False), ("192.168.1.7", False), ("a.host.of.nobody.invalid", False)],
    ],
)
def test_a_debugging_site_serves_this_machine_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, host: str, is_ours: bool
):
    def begin(_data_dir: Path) -> int:
        raise AlreadyRunningError("It begins.")

    monkeypatch.setattr(serve, "lock_data_dir", begin)
    settings.DEBUG = True
    with pytest.raises(CommandError, match=r"^It begins\.$" if is_ours else f"make run HOST={host} DEBUG=false"):
        call_command("serve", host=host)
    settings.DEBUG = False
    with pytest.raises(CommandError, match="It begins"):
        call_command("serve", host=host)


def test_the_first_run_names_the_next_port_when_one_is_taken(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = {"SECRET_KEY": "x", "PORT": str(port), "DATA_DIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-I", "-S", FIRST_RUN], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    problem = f"Cannot serve on 127.0.0.1:{port} (address already in use)"
    assert done.stderr == f"{problem}: take another one with `make run PORT={port + 1}`.\n"


def test_the_web_process_believes_no_proxy_but_those_of_the_settings(monkeypatch: pytest.MonkeyPatch):
    started: list[Any] = []
    monkeypatch.setattr(run_web, "check_prepared", lambda: None)

    def run(server: run_web.WebServer) -> None:
        started.append(server.config)
        server.started = True

    monkeypatch.setattr(run_web.WebServer, "run", run)
    call_command("run_web")
    assert started[0].proxy_headers is False
