"""A large export of another chat, by a worker process that is killed and comes back: whole, without doubles, in little
memory. `make test` reads 3 MB, SOAK=1 200 MB."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.db import connections
from django.db.models import Count
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from config import settings as site
from history.models import Conversation, Import, Turn
from history.transfer import states
from history.transfer.importing import begin_import
from tests.history.sources import write_large_export

pytestmark = [pytest.mark.soak, pytest.mark.stores, pytest.mark.usefixtures("catalog")]

IS_SOAK = os.environ.get("SOAK") == "1"
MEGABYTES = 200 if IS_SOAK else 3
PATIENCE_SECONDS = 3_000 if IS_SOAK else 250
MAX_GROWTH = 60_000_000
"""Bytes that a worker may grow by after its first portion."""
MAX_READER = 200_000_000
"""Bytes of the process that reads for it. What the kernel counts for it has the worker's own in it, before `exec`."""
WORKER = """
import resource, sys, django
django.setup()
from django.db import connections
for name in ("default", "history"):
    connections[name].settings_dict["NAME"] = sys.argv[{"default": 2, "history": 3}[name]]
from django.conf import settings
from django.core.files.storage import storages
storages.backends["transfers"]["OPTIONS"]["location"] = sys.argv[4]
from history.transfer import importing
importing.PORTION_SECONDS = 0.2
from uuid import UUID
is_done = False
while not is_done:
    is_done = importing.go_on_with(UUID(sys.argv[1]))
    peaks = [resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(*peaks, flush=True)
"""


def start_worker(row: Import, location: Path) -> "subprocess.Popen[str]":
    names = [str(connections[name].settings_dict["NAME"]) for name in ("default", "history")]
    command = [sys.executable, "-c", WORKER, str(row.pk), *names, str(location)]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings_test"}
    return subprocess.Popen(command, cwd=site.BASE_DIR, env=environment, stdout=subprocess.PIPE, text=True)


def wait_until_written(share: float) -> None:
    """Wait until so much of the conversations is written."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        row = Import.objects.get()
        if row.total and row.done >= share * row.total:
            return
        assert row.status != "refused", row.error
        time.sleep(0.02)
    raise AssertionError("The import does not get on.")


@pytest.mark.timeout(PATIENCE_SECONDS + 50)
def test_a_large_export_survives_a_killed_worker(ana: User, settings: Settings, tmp_path: Path):
    location = tmp_path / "transfers"
    options = {**site.STORAGES["transfers"]["OPTIONS"], "location": location}
    settings.STORAGES = {**site.STORAGES, "transfers": {**site.STORAGES["transfers"], "OPTIONS": options}}
    upload: Any = TemporaryUploadedFile("conversations.json", "application/json", 0, None)
    count = write_large_export(Path(upload.temporary_file_path()), MEGABYTES)
    upload.size = Path(upload.temporary_file_path()).stat().st_size
    began = time.monotonic()
    row = begin_import(ana.pk, upload)
    upload.close()
    first = start_worker(row, location)
    wait_until_written(0.3)
    first.kill()
    printed_first, _errors = first.communicate()
    done = Import.objects.get().done
    assert 0 < done < count
    Import.objects.update(claimed_at=timezone.now() - states.CLAIM_LASTS)  # as if it had been dead for a minute
    second = start_worker(row, location)
    printed, _errors = second.communicate(timeout=PATIENCE_SECONDS)
    portions = [[int(number) for number in line.split()] for line in printed.splitlines()]
    growth = portions[-1][0] - portions[0][0]
    reader = max(int(line.split()[1]) for line in (printed_first + printed).splitlines())
    row.refresh_from_db()
    took = f"{time.monotonic() - began:.0f} s, killed at {done}"
    memory = f"grew by {growth // 1_000_000} MB, reader {reader // 1_000_000} MB"
    print(f"{MEGABYTES} MB, {count} conversations, {row.turns} turns: {took}; {memory}")
    assert (row.status, row.done, row.imported + row.known) == ("done", count, count)
    assert row.known <= 1, "The one that was being written."
    assert growth < MAX_GROWTH
    assert reader < MAX_READER
    assert Conversation.objects.count() == count
    turns = dict(Turn.objects.values_list("conversation_id").annotate(Count("pk")))
    assert turns == dict(Conversation.objects.values_list("pk", "turn_count"))
    assert not list(location.iterdir())
