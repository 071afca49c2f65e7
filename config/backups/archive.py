"""The file of a backup, as a stream in both directions: tar, in gzip, in age.

`age --decrypt --identity KEY FILE | tar xz` opens it without this program; `sha256sum -c hashes/*` then compares what
came out. pyrage reads and writes streams by itself, so it runs in a thread, with a pipe between.
"""

import gzip
import hashlib
import os
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO, Protocol

import pyrage
from pyrage import x25519

from config.backups.errors import DamagedBackup, WrongKey

HASHES = "hashes/"
HASHES_EACH = 1_000
"""So many hashes are written, or waited for, at a time."""
READ_BYTES = 65_536


class ByteSource(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Writer:
    """Adds members, and lists of their hashes."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._hashes: list[str] = []
        self._lists = 0

    def add(self, name: str, data: bytes) -> None:
        self.add_stream(name, BytesIO(data), len(data))

    def add_stream(self, name: str, source: ByteSource, size: int) -> None:
        """Add exactly `size` bytes of the source. Raises OSError where it has fewer."""
        reader = _Hashing(source)
        self._write(name, reader, size)
        self._hashes.append(f"{reader.digest}  {name}\n")
        if len(self._hashes) == HASHES_EACH:
            self.write_hashes()

    def write_hashes(self) -> None:
        """Write the hashes of what was added since the last time."""
        self._lists += 1
        data = "".join(self._hashes).encode()
        self._hashes.clear()
        self._write(f"{HASHES}{self._lists:06}", BytesIO(data), len(data))

    def _write(self, name: str, source: ByteSource, size: int) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o600
        self._tar.addfile(member, source)
        _forget_members(self._tar)


class _Hashing:
    """What is read of a source, and its hash."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._hash = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        return data

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


@contextmanager
def writing(target: BinaryIO, recipients: Sequence[x25519.Recipient]) -> Iterator[Writer]:
    """Encrypt what is written into `target`, which stays open. Raises OSError where that cannot take it."""

    watched = _Watched(target)

    def encrypt(source: BinaryIO) -> None:
        try:
            pyrage.encrypt_io(source, watched, list(recipients))
        except pyrage.EncryptError as error:
            raise watched.error or error from None

    reading_end, writing_end = os.pipe()
    thread = _PipeThread(encrypt, os.fdopen(reading_end, "rb"))
    try:
        with (
            os.fdopen(writing_end, "wb", buffering=READ_BYTES) as pipe,
            gzip.GzipFile("", "wb", compresslevel=1, fileobj=pipe, mtime=0) as zipped,
            tarfile.open(mode="w|", fileobj=zipped, format=tarfile.PAX_FORMAT) as tar,
        ):
            yield Writer(tar)
    except BrokenPipeError:
        thread.finish()
        raise
    thread.finish()


class _Watched:
    """A file whose error is kept: pyrage makes a sentence of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def reading(file: BinaryIO, identities: Sequence[x25519.Identity]) -> Iterator[Iterator[tuple[str, ByteSource]]]:
    """Give the members in their order: each one's name, and its content, to be read before the next is taken.

    Lists of hashes are compared on the way, and not given. Raises WrongKey, or DamagedBackup for what is not as it was
    written.
    """

    def decrypt(pipe: BinaryIO) -> None:
        pyrage.decrypt_io(file, pipe, list(identities))

    reading_end, writing_end = os.pipe()
    thread = _PipeThread(decrypt, os.fdopen(writing_end, "wb", buffering=READ_BYTES))
    try:
        with os.fdopen(reading_end, "rb") as pipe, gzip.GzipFile(fileobj=pipe) as zipped:
            yield _members(zipped)
            while zipped.read(READ_BYTES):  # to the end of age's stream, which says whether it was cut off
                pass
    except (tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError) as error:
        thread.finish_reading()
        raise DamagedBackup("The backup is damaged: it cannot be unpacked.") from error
    except BaseException:
        thread.join()
        raise
    thread.finish_reading()


class _PipeThread(threading.Thread):
    """Runs `work` with one end of a pipe, closes that end, and keeps the error."""

    def __init__(self, work: Callable[[BinaryIO], None], end: BinaryIO) -> None:
        super().__init__(daemon=True)
        self._work, self._end = work, end
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._work(self._end)
            self._end.close()
        except BaseException as error:  # noqa: BLE001  it is raised where the other end is
            self._error = error
        finally:
            try:
                self._end.close()
            except OSError as error:  # nobody reads any more
                self._error = self._error or error

    def finish(self) -> None:
        """Wait for the end. Raises what went wrong."""
        self.join()
        if self._error:
            raise self._error

    def finish_reading(self) -> None:
        self.join()
        if isinstance(self._error, pyrage.DecryptError):
            if "No matching keys" in str(self._error):
                raise WrongKey("The key does not open this backup: it was made for another one.") from self._error
            raise DamagedBackup("This is no backup, or a damaged one: it does not begin as one does.") from self._error
        if self._error:
            raise DamagedBackup("The backup is damaged: it was cut off, or altered after it was made.") from self._error


def _members(zipped: gzip.GzipFile) -> Iterator[tuple[str, ByteSource]]:
    waiting: dict[str, str] = {}
    with tarfile.open(mode="r|", fileobj=zipped) as tar:
        while (member := tar.next()) is not None:
            _forget_members(tar)
            content = tar.extractfile(member)
            if content is None:
                raise DamagedBackup(f"The backup is damaged: {member.name} is no file.")
            if member.name.startswith(HASHES):
                _compare(content.read().decode(), waiting)
                continue
            reader = _Hashing(content)
            yield member.name, reader
            while reader.read(READ_BYTES):
                pass
            waiting[member.name] = reader.digest
    if waiting:
        raise DamagedBackup("The backup is damaged: it has no hash of its last parts.")


def _forget_members(tar: Any) -> None:
    """It would remember every one."""
    tar.members.clear()


def _compare(hashes: str, waiting: dict[str, str]) -> None:
    """Compare what was read since the last list with this one, which must have the same names."""
    listed = dict(line.split("  ", 1)[::-1] for line in hashes.splitlines())
    if listed != waiting:
        raise DamagedBackup("The backup is damaged: a part is not what its hash says.")
    waiting.clear()
