"""The workflows run targets of make that exist, and leave no test out; a release says what it is."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.version import VERSION

ROOT = Path(__file__).parent.parent.parent
WORKFLOWS = ROOT / ".github" / "workflows"
DOCKER = """#!/bin/sh
echo "$@" >> "$ASKED"
case "$*" in
    *"--services") echo "$SERVICES" ;;
    *"$REFUSED") exit 1 ;;
esac
"""
ACTIONLINT = shutil.which("actionlint", path=Path(sys.executable).parent)


def jobs() -> Iterator[dict[str, Any]]:
    for path in sorted(WORKFLOWS.glob("*.yml")):
        yield from yaml.safe_load(path.read_text())["jobs"].values()


@pytest.mark.skipif(not ACTIONLINT, reason="its package is for Linux on x86-64")
def test_actionlint_finds_nothing():
    done = subprocess.run([str(ACTIONLINT), *WORKFLOWS.glob("*.yml")], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_what_runs_are_targets_of_make():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [step.get("run", "") for job in jobs() for step in job.get("steps", [])]
    called = [word for line in re.findall(r"\bmake ([^>\n\"]+)", "\n".join(commands)) for word in line.split()]
    named = {word for word in called if "=" not in word and not word.startswith("-")}
    assert {"check", "audit", "test-folders", "test-external", "release-notes"} <= named
    assert named <= targets


def test_every_job_ends_and_may_do_little():
    for job in jobs():
        assert job["permissions"] in ({}, {"contents": "read"}) or {"packages", "actions"} & set(job["permissions"])
        assert "uses" in job or job["timeout-minutes"] <= 30


def test_every_test_is_in_a_job_of_every_python():
    found = yaml.safe_load((WORKFLOWS / "checks.yml").read_text())["jobs"]
    given = [job["env"]["TESTS"] for job in found["browser"]["steps"] if "TESTS" in job.get("env", {})]
    listed = set(" ".join([*given, *found["tests"]["strategy"]["matrix"]["folders"]]).split())
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob("test_*.py")}
    there |= {f"tests/{path.parent.name}" for path in (ROOT / "tests").glob("*/test_*.py")}
    assert there <= listed
    for job in ("tests", "stores"):
        assert found[job]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]


def test_a_release_is_refused_that_the_changelog_does_not_tell_of():
    release_notes = runpy.run_path(str(ROOT / ".ci" / "release_notes.py"))["release_notes"]
    changelog = (
        "# Changelog\n\n## [Unreleased]\n\n- Later\n\n## [1.2.0] - 2026-12-01\n\n- Now\n\n## [1.1.0] - 2026-11-01\n"
    )
    assert release_notes("v1.2.0", "1.2.0", changelog) == "- Now\n"
    for tag, version in (("v1.2.1", "1.2.0"), ("1.2.0", "1.2.0"), ("v1.1.0", "1.1.0"), ("v1.3.0", "1.3.0")):
        with pytest.raises(ValueError, match="tag is|CHANGELOG"):
            release_notes(tag, version, changelog)


def roll_out(folder: Path, refused: str = "nothing") -> list[str]:
    """Return what a roll-out asks of Docker until it ends. What is `refused` fails."""
    (folder / "docker").write_text(DOCKER)
    (folder / "docker").chmod(0o755)
    (folder / "asked").write_text("")
    path = f"{folder}:{os.environ['PATH']}"
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    told = {"PATH": path, "ASKED": str(folder / "asked"), "REFUSED": refused, "SERVICES": "\n".join(services)}
    done = subprocess.run(["make", "roll-out", "IMAGE=tertulia:2"], cwd=ROOT, env=told, capture_output=True)
    assert (done.returncode == 0) == (refused == "nothing")
    return [line.partition("compose.yaml ")[2] or line for line in (folder / "asked").read_text().splitlines()]


def test_a_roll_out_prepares_then_replaces_runners_before_web_processes(tmp_path: Path):
    names = ["runner1", "runner2", "worker", "beat", "web1", "web2"]
    replaced = [f"up --detach --no-deps --no-build --wait {name}" for name in names]
    expected = ["config --services", "pull --quiet tertulia:2", "run --rm --no-deps prepare", *replaced]
    rest = ["up --detach --no-build --wait --remove-orphans", "kill --signal HUP nginx"]
    assert roll_out(tmp_path) == [*expected, *rest]
    assert roll_out(tmp_path, "prepare") == expected[:3]
    assert roll_out(tmp_path, "runner2") == expected[:5]


def test_the_command_line_tells_the_version():
    done = subprocess.run([sys.executable, "manage.py", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == (f"Tertulia {VERSION}\n", 0)
