"""What the site keeps of people is its own user's alone, whatever the umask, also what was there before."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.mail import EmailMessage

from config.mail import CaughtMail
from config.private_files import create_private, make_private

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def careless_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_databases_and_their_folder_are_private_from_the_first_moment(tmp_path: Path):
    folder = tmp_path / "data"
    environment = {**os.environ, "SECRET_KEY": "x" * 60, "DATA_DIR": str(folder), "DATABASE_URL": "", "MONGODB_URI": ""}
    command = [sys.executable, "manage.py", "migrate", "sessions", "--verbosity", "0"]
    environment["DJANGO_SETTINGS_MODULE"] = "config.settings"
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=60)
    assert mode_of(folder) == 0o700
    databases = sorted(folder.glob("*.sqlite3*"))
    assert {"history.sqlite3", "tertulia.sqlite3"} <= {path.name for path in databases}
    assert {mode_of(path) for path in databases} == {0o600}


def test_what_was_there_before_is_made_private(tmp_path: Path):
    folder = tmp_path / "data"
    for name in ("mail", "attachments", "valkey"):
        (folder / name).mkdir(parents=True, mode=0o777)
    files = [folder / name for name in ("tertulia.sqlite3", "tertulia.sqlite3-wal", "beat-schedule")]
    for file in files:
        file.touch(0o666)
    make_private(folder)
    assert {mode_of(path) for path in (folder, *(path for path in folder.iterdir() if path.is_dir()))} == {0o700}
    assert {mode_of(file) for file in files} == {0o600}


def test_a_folder_that_is_everybodys_is_left_alone(tmp_path: Path):
    tmp_path.chmod(0o1777)
    make_private(tmp_path)
    assert mode_of(tmp_path) == 0o777


def test_a_file_that_a_link_leads_to_is_left_alone(tmp_path: Path):
    target = tmp_path / "elsewhere"
    target.touch(0o644)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tertulia.sqlite3").symlink_to(target)
    make_private(tmp_path / "data")
    assert mode_of(target) == 0o644


def test_a_database_that_is_there_is_not_emptied(tmp_path: Path):
    (tmp_path / "a").write_text("full")
    assert create_private(tmp_path / "a").read_text() == "full"


def test_mail_that_is_caught_is_private(settings, tmp_path: Path):
    settings.MAIL_DIR = tmp_path / "mail"
    CaughtMail(stream=io.StringIO()).send_messages([EmailMessage("Hola", "x", to=["ana@example.com"])])
    [mail] = settings.MAIL_DIR.iterdir()
    assert (mode_of(settings.MAIL_DIR), mode_of(mail)) == (0o700, 0o600)
