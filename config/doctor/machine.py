"""This machine: the data folder, and room on its disks."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings

from config.doctor.findings import Finding, either, fail, ok, warn

LITTLE = 0.1
HARDLY = 0.02


def examine_machine() -> Iterator[Finding]:
    folder: Path = settings.DATA_DIR
    mode = stat.S_IMODE(folder.stat().st_mode)
    yield either(
        not mode & 0o077,
        ok("data folder, rights", "the site's own user's alone"),
        fail(
            "data folder, rights",
            f"{folder} has the mode {mode:o}: other users of this machine can get at what people wrote.",
            f"chmod 700 {folder}",
        ),
    )
    missing = [str(path) for path in (folder, folder / "attachments", folder / "transfers") if not _is_writable(path)]
    yield either(
        not missing,
        ok("data folder, writing", str(folder)),
        fail(
            "data folder, writing",
            f"This user cannot write to {', '.join(missing)}.",
            "Let it belong to the user the site runs as, and run doctor as that user.",
        ),
    )
    for name, path in (("data folder", folder), ("folder for temporary files", Path(tempfile.gettempdir()))):
        yield _examine_room(name, path)


def _is_writable(path: Path) -> bool:
    """Return whether files can be made there; a folder that is not there yet is made in the one above."""
    while not path.exists():
        path = path.parent
    return os.access(path, os.W_OK | os.X_OK)


def _examine_room(name: str, path: Path) -> Finding:
    usage = shutil.disk_usage(path)
    free = usage.free / usage.total
    said = f"{usage.free / 1e9:,.1f} GB of {usage.total / 1e9:,.1f} GB are free"
    remedy = f"Make room on the disk of {path}."
    if free < HARDLY:
        return fail(f"{name}, room", f"Only {said}.", remedy)
    return warn(f"{name}, room", f"Only {said}.", remedy) if free < LITTLE else ok(f"{name}, room", said)
