"""Measures CPU time and memory of process trees, from /proc."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    cpu_seconds: float
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class _Process:
    parent: int
    ticks: int
    pages: int


def measure_processes(roots: dict[str, tuple[int, ...]]) -> dict[str, ProcessUsage]:
    """Return what each named set of processes and their descendants has used since it started."""
    processes = _read_all()
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    return {name: _sum(_tree(pids, children), processes) for name, pids in roots.items()}


def _tree(roots: tuple[int, ...], children: dict[int, list[int]]) -> set[int]:
    members: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in members:
            members.add(pid)
            waiting += children.get(pid, ())
    return members


def _sum(pids: set[int], processes: dict[int, _Process]) -> ProcessUsage:
    alive = [processes[pid] for pid in pids if pid in processes]
    ticks = sum(process.ticks for process in alive)
    return ProcessUsage(ticks / _TICKS_PER_SECOND, sum(process.pages for process in alive) * _PAGE_BYTES)


def _read_all() -> dict[int, _Process]:
    by_pid = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := _read(name)):
            by_pid[int(name)] = process
    return by_pid


def _read(pid: str) -> _Process | None:
    try:
        text = Path("/proc", pid, "stat").read_text()
    except OSError:  # it ended meanwhile
        return None
    # The second field is the program's name in brackets, with any bracket or space in it (proc(5)).
    fields = text.rpartition(")")[2].split()
    # utime, stime, and the same of children that ended and were waited for: they are no longer in the tree.
    ticks = sum(int(field) for field in fields[11:15])
    return _Process(parent=int(fields[1]), ticks=ticks, pages=int(fields[21]))
