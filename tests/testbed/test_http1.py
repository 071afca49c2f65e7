"""Heads and chunked bodies, however they are cut."""

import pytest

from testbed.http1 import LAST_CHUNK, Dechunker, Head, MalformedError, chunk

BODY = chunk(b"one") + chunk(b"two\r\nthree") + LAST_CHUNK


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(BODY)])
def test_chunks_are_joined_at_any_size_of_read(size: int) -> None:
    dechunker = Dechunker()
    body = b"".join(dechunker.feed(BODY[at : at + size]) for at in range(0, len(BODY), size))
    assert body == b"onetwo\r\nthree"
    assert dechunker.finished


def test_what_follows_the_body_is_kept_apart() -> None:
    dechunker = Dechunker()
    dechunker.feed(BODY + b"GET /")
    assert dechunker.rest == b"GET /"


def test_trailers_and_extensions_are_skipped() -> None:
    dechunker = Dechunker()
    assert dechunker.feed(b"3;a=b\r\none\r\n0\r\nX: y\r\n\r\n") == b"one"
    assert dechunker.finished


def test_a_size_that_is_no_number_is_refused() -> None:
    with pytest.raises(MalformedError):
        Dechunker().feed(b"zz\r\n")


def test_field_names_are_in_lower_case() -> None:
    head = Head.parse(b"GET / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: Chunked")
    assert head.content_length == 3
    assert head.chunked
    assert not head.closes
