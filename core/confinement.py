"""Limits a process that reads what a stranger has made. It is loaded by such processes: no Django here."""

import resource


def confine(seconds: int, *, memory_bytes: int, written_bytes: int) -> None:
    """Have the kernel end this process when it takes too much memory, time or disk."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (written_bytes, written_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
