"""Sizes of files."""

import pytest
from django.utils import translation

from core.sizes import readable_size


@pytest.mark.parametrize(
    ("language", "size_bytes", "shown"),
    [
        ("en", 20 * 2**20, "20 MB"),
        ("es", 20 * 2**20, "20 MB"),
        ("es", 3 * 2**19, "1,5 MB"),
        ("pt-br", 100 * 2**10, "100 KB"),
        ("en", 10, "10 bytes"),
    ],
)
def test_a_size_has_no_decimal_that_says_nothing(language: str, size_bytes: int, shown: str) -> None:
    with translation.override(language):
        assert readable_size(size_bytes).replace("\xa0", " ") == shown
