"""What the site is compared with: the fake provider itself, and nginx as the cheapest relay there is."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from config.embedded import ports
from testbed.site import wait_for_port

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_NGINX = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 8192;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    {temporary}
    upstream provider {{ server {provider}; keepalive 1024; }}
    server {{
        listen 127.0.0.1:{port};
        keepalive_requests 100000;
        location / {{
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A process that speaks the provider's protocol."""

    url: str
    pid: int

    def reset(self) -> None:
        """Make the provider drop every running stream."""
        urllib.request.urlopen(self.url.removesuffix("/v1") + "/reset", data=b"", timeout=10).close()


def pick_core(index: int) -> set[int] | None:
    """Return the first core (0) or the last (-1); None if there is one only, or processes cannot be pinned."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    return {cores[index]} if len(cores) > 1 else None


@contextlib.contextmanager
def provider() -> Iterator[Upstream]:
    """Run the fake provider as a process."""
    port = ports.any_free_port()
    command = [sys.executable, "-m", "testbed.provider", "--port", str(port)]
    with _running(command, port) as pid:
        yield Upstream(f"http://127.0.0.1:{port}/v1", pid)


@contextlib.contextmanager
def nginx(provider_url: str, cores: set[int] | None) -> Iterator[Upstream | None]:
    """Run nginx as a proxy of the provider, on the given cores; None where it is not installed."""
    program = _nginx_program()
    if program is None:
        yield None
        return
    port = ports.any_free_port()
    with tempfile.TemporaryDirectory(prefix="tertulia-nginx-") as folder:
        temporary = " ".join(f"{name}_temp_path {name};" for name in _TEMPORARY)
        settings = _NGINX.format(temporary=temporary, provider=urlsplit(provider_url).netloc, port=port)
        Path(folder, "nginx.conf").write_text(settings)
        command = [program, "-p", folder, "-c", "nginx.conf", "-e", "error.log"]
        with _running(command, port, cores) as pid:
            yield Upstream(f"http://127.0.0.1:{port}/v1", pid)


def nginx_version() -> str:
    """Return nginx's name and version."""
    done = subprocess.run([_nginx_program() or "nginx", "-v"], capture_output=True, text=True, check=True)
    return done.stderr.strip().rpartition(": ")[2].replace("/", " ")


def _nginx_program() -> str | None:
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))


@contextlib.contextmanager
def _running(command: list[str], port: int, cores: set[int] | None = None) -> Iterator[int]:
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        if cores:
            os.sched_setaffinity(child.pid, cores)
        wait_for_port(port)
        yield child.pid
    finally:
        child.terminate()
        child.wait()
