"""How many streams each person has open in this process. A document that is waited for is one, too."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from time import monotonic
from typing import Self

from accounts.admission import Admission
from chat.errors import TooManyStreams

MAX_STREAMS = 32
"""Streams one person may have open in one web process."""
UNBEGUN_SECONDS = 60
"""How long a stream counts whose content was not asked for yet. Of a client that goes away while its request is looked
at, Django drops the answer and tells nobody."""


class OpenStream:
    """One of a person's streams: it counts until `close`. `with` it, its content is written."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self._taken_at = monotonic()
        self.is_begun = False

    @property
    def counts(self) -> bool:
        return self.is_begun or monotonic() - self._taken_at < UNBEGUN_SECONDS

    def __enter__(self) -> Self:
        self.is_begun = True
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Count it no more; may be repeated."""
        with _lock:
            owner_id = self.admission.user_id
            _replace(owner_id, _open.get(owner_id, set()) - {self})


_open: dict[int, set[OpenStream]] = {}  # by owner
_lock = Lock()


@contextmanager
def one_more_stream(admission: Admission) -> Iterator[OpenStream]:
    """Count one more stream of this person, and no more if the block fails; raises TooManyStreams."""
    stream = _open_one(admission)
    try:
        yield stream
    except BaseException:
        stream.close()
        raise


def _open_one(admission: Admission) -> OpenStream:
    owner_id = admission.user_id
    with _lock:
        streams = {stream for stream in _open.get(owner_id, ()) if stream.counts}
        if len(streams) >= MAX_STREAMS:
            raise TooManyStreams
        stream = OpenStream(admission)
        _replace(owner_id, streams | {stream})
    return stream


def _replace(owner_id: int, streams: set[OpenStream]) -> None:
    if streams:
        _open[owner_id] = streams
    else:
        _open.pop(owner_id, None)
