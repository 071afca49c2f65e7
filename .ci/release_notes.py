"""What CHANGELOG.md says of the version that a tag releases. Whoever tags what it does not tell of is refused.

Usage: release_notes.py v1.2.3
"""

import re
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def release_notes(tag: str, version: str, changelog: str) -> str:
    """Return the section of a version. Raises ValueError, with one sentence, where something does not fit."""
    if tag != f"v{version}":
        raise ValueError(f"The tag is {tag}, and config/version.py says {version}.")
    heading = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$\n(.*?)(?=^## |\Z)"
    found = re.search(heading, changelog, re.MULTILINE | re.DOTALL)
    if not found or not found[1].strip():
        raise ValueError(f"CHANGELOG.md has no section `## [{version}] - YYYY-MM-DD` that says something.")
    return found[1].strip() + "\n"


if __name__ == "__main__":
    version = runpy.run_path(str(ROOT / "config" / "version.py"))["VERSION"]
    try:
        sys.stdout.write(release_notes(sys.argv[1], version, (ROOT / "CHANGELOG.md").read_text()))
    except ValueError as error:
        sys.exit(str(error))
