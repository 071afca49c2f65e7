"""What a table holds, as a count and a hash: the same for the same rows, in whatever order they are read."""

import hashlib
from collections.abc import Iterable

import msgspec

MODULUS = 2**128


class TableContent(msgspec.Struct, frozen=True):
    """How many rows a table or collection has, and a hash over all of them, in hexadecimal."""

    rows: int
    hash: str


class Digest:
    """Adds up the hashes of rows: a sum knows no order, and rows of a server come in any."""

    def __init__(self) -> None:
        self.rows = self._sum = 0

    def add(self, row: bytes) -> None:
        self.rows += 1
        self._sum += int.from_bytes(hashlib.blake2b(row, digest_size=16).digest())

    def content(self) -> TableContent:
        return TableContent(self.rows, f"{self._sum % MODULUS:032x}")


def content_of(rows: Iterable[bytes]) -> TableContent:
    digest = Digest()
    for row in rows:
        digest.add(row)
    return digest.content()
