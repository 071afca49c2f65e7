"""The lines of a shell that a document shows."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks_of(document: str, section: str) -> list[str]:
    """Return the blocks marked `sh` in a section of a document, as they stand there."""
    _, _, rest = (ROOT / document).read_text().partition(f"\n## {section}\n")
    return BLOCK.findall(rest.partition("\n## ")[0])
