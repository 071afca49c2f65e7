"""The conditions of a run: the machine, the load of other programs, the versions and the commit."""

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import redis

from bench import processes
from testbed.site import ROOT

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PACKAGES = ("Django", "uvicorn", "uvloop", "aiohttp", "redis")


@dataclass(frozen=True, slots=True)
class OtherCpuTime:
    """CPU time of this machine that other machines and programs used: it disturbs the measurement."""

    stolen_seconds: float  # the host gave it to other machines
    foreign_seconds: float  # programs that this process did not start

    @classmethod
    def now(cls) -> Self:
        """Return it since the machine started, without that of this process and of all it started."""
        try:
            ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        except OSError:
            return cls(0, 0)
        user, nice, system, _idle, _waiting, interrupts, soft, stolen = ticks[:8]
        own = processes.measure_processes({"own": (os.getpid(),)})["own"].cpu_seconds
        busy = (user + nice + system + interrupts + soft) / _TICKS_PER_SECOND
        return cls(stolen / _TICKS_PER_SECOND, busy - own)

    def __sub__(self, earlier: Self) -> Self:
        stolen = self.stolen_seconds - earlier.stolen_seconds
        return replace(self, stolen_seconds=stolen, foreign_seconds=self.foreign_seconds - earlier.foreign_seconds)

    def __str__(self) -> str:
        return f"CPU stolen {self.stolen_seconds:.1f} s, foreign {max(0.0, self.foreign_seconds):.1f} s"


def describe_machine() -> str:
    """Return processor, cores, kernel and memory, in one line."""
    models = [value for name, value in _fields("/proc/cpuinfo") if name == "model name"]
    kilobytes = next((int(value.split()[0]) for name, value in _fields("/proc/meminfo") if name == "MemTotal"), 0)
    system = f"{platform.system()} {platform.release()}"
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {system}, {kilobytes >> 20} GB"


def describe_versions(redis_url: str) -> str:
    """Return the versions of Python, packages and store, in one line."""
    packages = describe_packages(*PACKAGES).replace("redis ", "redis-py ")
    with redis.Redis.from_url(redis_url) as client:
        server = client.info("server")
    valkey = server.get("valkey_version")
    store = f"Valkey {valkey}" if valkey else f"Redis {server['redis_version']}"
    return ", ".join([f"Python {platform.python_version()}", packages, store])


def describe_packages(*names: str) -> str:
    """Return packages and their versions, in one line."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def describe_commit() -> str:
    """Return the commit, and whether there are changes."""
    commit = _git("rev-parse", "--short", "HEAD")
    if not commit:
        return "no git"
    changed = _git("status", "--porcelain", "--", ".", ":!bench/RESULTS.md")
    return f"`{commit}` with changes" if changed else f"`{commit}`"


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
