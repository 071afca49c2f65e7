"""Says whether one process of the site is well, by its exit code: for the health checks of compose.yaml, and for units,
which wait here until what they have started can take over from the next one.

    healthcheck.py web --port 8000        answers
    healthcheck.py runner --pid 12        has announced itself, with that process id; any of this machine without one
    healthcheck.py worker                 answers a ping of Celery
    healthcheck.py beat                   has kept its schedule lately

`--wait 60` tries again for so many seconds. No Django here, but for the worker: it is asked every two minutes.
"""

import argparse
import http.client
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import environ
import redis

ALIVE_KEY = "runners:alive"  # as in chat/turns/presence.py
ALIVE_SECONDS = 15
SCHEDULE_SECONDS = 600  # Celery writes it every three minutes
ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("process", choices=CHECKS)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--pid", default="")
    parser.add_argument("--wait", type=float, default=0)
    given = parser.parse_args()
    environ.Env.read_env(ROOT / ".env")
    deadline = time.monotonic() + given.wait
    while not _is_well(given):
        if time.monotonic() >= deadline:
            return 1
        time.sleep(0.2)
    return 0


def _is_well(given: argparse.Namespace) -> bool:
    try:
        return CHECKS[given.process](given)
    except (OSError, http.client.HTTPException, redis.RedisError):
        return False


def is_web_well(given: argparse.Namespace) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", given.port, timeout=5)
    allowed = os.environ.get("ALLOWED_HOSTS", "localhost").split(",")[0].strip()
    connection.request("GET", "/healthz", headers={"Host": "localhost" if allowed == "*" else allowed})
    return connection.getresponse().status == 200


def is_runner_well(given: argparse.Namespace) -> bool:
    runner = f"{socket.gethostname()}-{given.pid}{'-' if given.pid else ''}"
    with redis.Redis.from_url(os.environ["REDIS_URL"], socket_timeout=5) as client:
        seconds, _microseconds = client.time()
        alive: Any = client.zrangebyscore(ALIVE_KEY, seconds - ALIVE_SECONDS, "+inf")
        return any(name.decode().startswith(runner) for name in alive)


def is_worker_well(_given: argparse.Namespace) -> bool:
    ping = [sys.executable, "-m", "celery", "-A", "config", "inspect", "ping", "-d", f"celery@{socket.gethostname()}"]
    return subprocess.run(ping, cwd=ROOT, capture_output=True, timeout=20, check=False).returncode == 0  # noqa: S603


def is_beat_well(_given: argparse.Namespace) -> bool:
    written = [file.stat().st_mtime for file in Path(os.environ["DATA_DIR"]).glob("beat-schedule*")]
    return bool(written) and time.time() - max(written) < SCHEDULE_SECONDS


CHECKS = {"web": is_web_well, "runner": is_runner_well, "worker": is_worker_well, "beat": is_beat_well}

if __name__ == "__main__":
    sys.exit(main())
