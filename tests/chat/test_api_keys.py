"""Several keys a provider, and others without a restart."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_django import Settings

from chat.llm.providers import api_keys, list_providers
from chat.llm.providers.api_keys import api_keys_of


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "CHECK_INTERVAL_SECONDS", 0)
    monkeypatch.setattr(api_keys._WatchedFile, "_by_path", {})


@pytest.fixture
def dotenv(settings: Settings, tmp_path: Path) -> Path:
    """A `.env` the process began with."""
    path = tmp_path / ".env"
    path.write_text("OPENAI_API_KEY=old\n")
    settings.DOTENV, settings.DOTENV_CHANGED_NS, settings.OPENAI_API_KEY = path, path.stat().st_mtime_ns, "old"
    return path


def test_one_provider_has_several_keys_each_once(settings: Settings):
    settings.OPENAI_API_KEY = " k1, k2,,k1 "
    provider = list_providers()["openai"]
    assert (provider.api_key, provider.api_keys) == ("k1", ("k1", "k2"))
    assert [one.api_key for one in provider.with_each_api_key()] == ["k1", "k2"]
    assert {one.base_url for one in provider.with_each_api_key()} == {settings.OPENAI_BASE_URL}


def test_no_key_is_shown(settings: Settings):
    settings.OPENAI_API_KEY = "sk-first,sk-second"
    assert "sk-" not in repr(list_providers()["openai"])


def test_a_provider_with_no_key_is_not_there_and_an_own_server_needs_none(settings: Settings):
    settings.OPENAI_API_KEY, settings.OPENAI_COMPATIBLE_BASE_URL = " , ", "http://127.0.0.1:1/v1"
    found = list_providers()
    assert "openai" not in found
    assert [one.api_key for one in found["compatible"].with_each_api_key()] == [""]


def test_dotenv_is_read_again_when_it_changes(dotenv: Path):
    assert api_keys_of("OPENAI_API_KEY") == ("old",)
    dotenv.write_text("# rotated\nexport OPENAI_API_KEY='new,newer'\nOTHER=1\n")
    assert api_keys_of("OPENAI_API_KEY") == ("new", "newer")
    dotenv.write_text("OTHER=1\n")
    assert api_keys_of("OPENAI_API_KEY") == ()
    assert "openai" not in list_providers()


def test_a_mistyped_line_is_not_repeated_in_the_log(dotenv: Path, caplog: pytest.LogCaptureFixture):
    dotenv.write_text("OPENAI_API_KEY = sk-secret\nsk-another\n")
    assert api_keys_of("OPENAI_API_KEY") == ()
    assert "sk-" not in caplog.text


def test_a_file_that_is_looked_at_for_the_first_time_after_it_changed(dotenv: Path):
    dotenv.write_text("OPENAI_API_KEY=new\n")
    assert api_keys_of("OPENAI_API_KEY") == ("new",)


def test_the_real_environment_wins(dotenv: Path, settings: Settings):
    settings.KEYS_IN_DOTENV, settings.OPENAI_API_KEY = frozenset(), "real"
    dotenv.write_text("OPENAI_API_KEY=new\n")
    assert api_keys_of("OPENAI_API_KEY") == ("real",)


def test_a_mounted_secret_is_read_again_and_missed_for_a_moment(settings: Settings, tmp_path: Path):
    secret = tmp_path / "key"
    settings.OPENAI_API_KEY, settings.OPENAI_API_KEY_FILE = "other", str(secret)
    assert api_keys_of("OPENAI_API_KEY") == ()
    secret.write_text("k1\n")
    assert api_keys_of("OPENAI_API_KEY") == ("k1",)
    secret.unlink()  # between two versions
    assert api_keys_of("OPENAI_API_KEY") == ("k1",)
    secret.write_text("k2\nk3\n")
    assert api_keys_of("OPENAI_API_KEY") == ("k2", "k3")


def test_files_are_looked_at_once_a_second(dotenv: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(api_keys, "CHECK_INTERVAL_SECONDS", 1.0)
    looked = []
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **options: (looked.append(self), stat(self, **options))[1])
    for _ in range(10):
        list_providers()
    assert looked == [dotenv]


SHOWN = """
import os
from django.conf import settings as s
print(s.OPENAI_API_KEY, s.KEYS_IN_DOTENV >= {'OPENAI_API_KEY'}, os.environ.get('OPENAI_API_KEY'))
"""


@pytest.mark.parametrize(("real", "said"), [({"OPENAI_API_KEY": "r"}, "r False r"), ({}, "f True None")])
def test_a_child_reads_the_file_itself(tmp_path: Path, real: dict[str, str], said: str):
    """A supervisor's restart of a child must not bring an old key back."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI")}
    (tmp_path / "services.env").write_text("OPENAI_API_KEY=f\n")
    environment |= {"DJANGO_SETTINGS_MODULE": "config.settings", "DATA_DIR": str(tmp_path), **real}
    shown = subprocess.run([sys.executable, "-c", SHOWN], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == said
