"""What a run's figures hold for: the machine, the versions and the state of the code."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import redis

from bench.site import ROOT

PACKAGES = ("Django", "uvicorn", "uvloop", "aiohttp", "redis")


def describe_machine() -> str:
    """Return the processor, its cores, the kernel and the memory in a line."""
    models = [value for name, value in _fields("/proc/cpuinfo") if name == "model name"]
    kilobytes = next((int(value.split()[0]) for name, value in _fields("/proc/meminfo") if name == "MemTotal"), 0)
    system = f"{platform.system()} {platform.release()}"
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {system}, {kilobytes >> 20} GB"


def describe_versions(redis_url: str) -> str:
    """Return the versions of what serves in a line."""
    packages = [f"{name.replace('redis', 'redis-py')} {importlib.metadata.version(name)}" for name in PACKAGES]
    with redis.Redis.from_url(redis_url) as client:
        server = client.info("server")
    valkey = server.get("valkey_version")
    store = f"Valkey {valkey}" if valkey else f"Redis {server['redis_version']}"
    return ", ".join([f"Python {platform.python_version()}", *packages, store])


def describe_commit() -> str:
    """Return the commit, and whether the code is what it says."""
    commit = _git("rev-parse", "--short", "HEAD")
    if not commit:
        return "no git"
    changed = _git("status", "--porcelain", "--", ".", ":!bench/RESULTS.md")
    return f"`{commit}` with changes" if changed else f"`{commit}`"


def stolen_seconds() -> float:
    """Return the CPU time that this machine wanted and its host gave to others, since it started."""
    try:
        ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()[8]
    except OSError:
        return 0.0
    return int(ticks) / os.sysconf("SC_CLK_TCK")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def _fields(path: str) -> list[tuple[str, str]]:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return []
    return [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
