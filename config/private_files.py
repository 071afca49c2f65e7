"""Files of this site that no other user of the machine may read, whatever the umask says."""

import os
import stat
from contextlib import suppress
from pathlib import Path

OURS = ("*.sqlite3*", "mail", "attachments", "transfers", "valkey", "mongo", "beat-schedule*")
"""What a data folder holds of people, also from before it was made private."""


def make_private(folder: Path) -> None:
    """Create the data folder, or take it and what it holds away from everybody else."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & stat.S_ISVTX:
        return  # /tmp and its like are everybody's
    for path in (folder, *(path for pattern in OURS for path in folder.glob(pattern))):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode) and mode & 0o077:
            with suppress(PermissionError):  # another user's: it is for them to say
                path.chmod(stat.S_IMODE(mode) & 0o700)


def create_private(file: Path) -> Path:
    """Create the file, empty, unless it is there; return it. SQLite gives what it puts beside it the same mode."""
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    return file
