"""Checks and prepares what Django needs to start: the Python version, a `.env` with secrets, a free port.

A plain script (`python -I config/embedded/first_run.py`), since settings.py needs the `.env` that this writes. `-I`
keeps this folder out of the import path: its modules must not hide others of the same name.
"""

import os
import re
import secrets
import socket
import sys
import time
from pathlib import Path

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
SHUTDOWN_SECONDS = 8  # by then, the processes of a site that was killed have ended

BASE_DIR = Path(__file__).resolve().parent.parent.parent
ENV_FILE = BASE_DIR / ".env"
ENV_TEXT = """\
# Written by the first `make run`. Everything else that can be set is in .env.example.
DEBUG=true
SECRET_KEY={secret_key}
JWT_SECRET_KEY={jwt_secret_key}
"""


def main() -> None:
    check_python()
    write_env_file()
    check_port(os.environ.get("HOST") or "127.0.0.1", os.environ.get("PORT") or "8000")


def check_python() -> None:
    if not OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        version = ".".join(str(part) for part in sys.version_info[:2])
        sys.exit(f"Tertulia runs on Python 3.11, 3.12 and 3.13, and this is {version}: `make run PYTHON=python3.13`.")


def write_env_file() -> None:
    if os.environ.get("SECRET_KEY"):
        return  # configured by the environment alone
    if not ENV_FILE.exists():
        create_env_file(ENV_TEXT.format(secret_key=secrets.token_urlsafe(50), jwt_secret_key=secrets.token_urlsafe(50)))
        print_line("Wrote .env with fresh secrets.")
    elif not re.search(r"^(export )?SECRET_KEY=.", ENV_FILE.read_text(), re.MULTILINE):
        add_secret_key()
        print_line("Added a fresh SECRET_KEY to .env.")


def create_env_file(text: str) -> None:
    with open(os.open(ENV_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def add_secret_key() -> None:
    """Add the key to a copy of .env.example, and remove its empty line: the first line of a name counts."""
    text = re.sub(r"^(export )?SECRET_KEY=\n?", "", ENV_FILE.read_text(), flags=re.MULTILINE)
    ENV_FILE.write_text(f"SECRET_KEY={secrets.token_urlsafe(50)}\n{text}")
    ENV_FILE.chmod(0o600)


def check_port(host: str, port: str) -> None:
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        sys.exit(f"PORT={port} is not a port number: `make run PORT=8000`.")
    bind_error = find_bind_error(host, int(port))
    deadline = time.monotonic() + SHUTDOWN_SECONDS
    while bind_error and was_last_run_killed() and time.monotonic() < deadline:
        time.sleep(0.2)
        bind_error = find_bind_error(host, int(port))
    if bind_error:
        sys.exit(
            f"Cannot serve on {host}:{port} ({bind_error}): take another one with `make run PORT={int(port) + 1}`."
        )


def was_last_run_killed() -> bool:
    """Return whether the last site ended without cleaning up: its processes may still be ending."""
    data_dir = Path(os.environ.get("DATA_DIR") or BASE_DIR / "var")
    try:
        os.kill(int((data_dir / "serve.lock").read_text()), 0)
    except ProcessLookupError:
        return (data_dir / "services.env").exists()
    except (OSError, ValueError):
        return False
    return False


def find_bind_error(host: str, port: int) -> str | None:
    """Return why the port cannot be bound; None if it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return None


def print_line(sentence: str) -> None:
    sys.stdout.write(sentence + "\n")


if __name__ == "__main__":
    main()
