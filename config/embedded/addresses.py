"""The file with the addresses of the running services, so that `manage.py` in another terminal finds them: settings.py
reads it. They hold passwords, and so nobody else may."""

from collections.abc import Mapping, MutableMapping
from pathlib import Path


def write_addresses(environment: Mapping[str, str], data_dir: Path) -> None:
    lines = ["# Written by `manage.py serve`, and removed when it stops."]
    lines += [f"{name}={value}" for name, value in environment.items()]
    write_private(_file_in(data_dir), "\n".join(lines) + "\n")


def write_private(file: Path, text: str) -> None:
    """Write a file that only this user can read."""
    file.touch(mode=0o600)
    file.chmod(0o600)  # it may have been there
    file.write_text(text)


def remove_addresses(environment: MutableMapping[str, str], data_dir: Path) -> None:
    """Delete the file, and from `environment` what was read from it: a site that was killed leaves it behind."""
    file = _file_in(data_dir)
    if not file.exists():
        return
    for line in file.read_text().splitlines():
        name, _, value = line.partition("=")
        if environment.get(name) == value:
            del environment[name]
    file.unlink()


def _file_in(data_dir: Path) -> Path:
    return data_dir / "services.env"
