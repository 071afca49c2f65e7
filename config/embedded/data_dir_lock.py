"""The lock on the data folder: two sites that write the same files would destroy them."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAIT_SECONDS = 12.0  # the guardian of a killed site needs up to five to stop its services


class AlreadyRunningError(Exception):
    """Another site uses the same data folder."""


def lock_data_dir(data_dir: Path) -> int:
    """Return the open file that holds the lock. Wait for the services that a killed site left running to end; raise
    AlreadyRunningError while another site runs.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(data_dir / "serve.lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + WAIT_SECONDS
    while not _try_lock(lock):
        if _is_owner_alive(lock) or time.monotonic() > deadline:
            os.close(lock)
            raise AlreadyRunningError(f"Tertulia is already running with the data in {data_dir}: stop it first.")
        time.sleep(0.2)
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d" % os.getpid(), 0)
    return lock


@contextmanager
def one_at_a_time(data_dir: Path, name: str) -> Iterator[None]:
    """Wait until no other process with this data folder does what is called so."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(data_dir / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_owner_alive(lock: int) -> bool:
    """Return whether the process that took the lock runs; if not, its guardian holds the lock until all has stopped."""
    try:
        os.kill(int(os.pread(lock, 20, 0)), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # another user's, and alive
        return True
    return True
