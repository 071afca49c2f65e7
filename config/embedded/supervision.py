"""Keeps processes running: in order, each ready before the next, restarted when one dies, none left behind.

`supervisor` from PyPI was tried and lacks three things wanted here: it does not know readiness, it gives up on a
process after a few restarts, and its children live on when it is killed with -9.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

GUARDIAN = Path(__file__).with_name("guardian.py")
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95)
PROBE_SECONDS = 2.0
FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 10.0
STEADY_SECONDS = 30.0  # a process that ran this long has recovered: its next restart is quick again
FALSE_STARTS = 4  # a process that ends this often before it was ever ready will not get ready by trying again

Ready = Callable[[], Awaitable[bool]]


@dataclass(frozen=True)
class Process:
    """One command to keep running. Without `ready` it counts as ready once started."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)  # on top of the manager's own
    ready: Ready | None = None
    stop_seconds: float = 5.0  # between SIGTERM and SIGKILL


class NotReadyError(Exception):
    """A process did not get ready; says so in one sentence."""


def answers(port: int, request: bytes = b"", expected: bytes = b"", *, host: str = "127.0.0.1") -> Ready:
    """A readiness probe: the port takes a connection and its answer to `request` begins with `expected`."""

    async def probe() -> bool:
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            return False
        try:
            writer.write(request)
            return await reader.readexactly(len(expected)) == expected
        except (OSError, asyncio.IncompleteReadError):
            return False
        finally:
            writer.close()

    return probe


def answers_http(port: int, path: str, *, host: str = "127.0.0.1", name: str = "localhost") -> Ready:
    """A readiness probe: GET `path` is a 200."""
    request = f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
    return answers(port, request.encode(), b"HTTP/1.1 200", host=host)


class Manager:
    """`async with Manager(directory) as manager:` runs processes until the block is left, then stops them in reverse
    order. `held` are open files (a lock) that stay open until every process is gone, even when the manager is killed.
    """

    def __init__(self, directory: Path, *, output: BinaryIO | None = None, held: Sequence[int] = ()) -> None:
        self.stopping = False
        self._directory = directory
        self._output = output or sys.stdout.buffer
        self._colour = self._output.isatty() and "NO_COLOR" not in os.environ
        self._colours: dict[str, int] = {}
        self._held = held
        self._groups: set[int] = set()
        self._kept: list[_Kept] = []
        # Both ends stay open here: a guardian that dies is replaced, and the next one reads the same pipe.
        self._guardian_reads, self._guardian_hears = os.pipe()
        self._guardian: asyncio.subprocess.Process | None = None
        self._guarding: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._start_guardian()
        self._guarding = asyncio.create_task(self._guard())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
        if self._guarding:
            self._guarding.cancel()
        os.close(self._guardian_hears)
        os.close(self._guardian_reads)
        if self._guardian:
            await self._guardian.wait()

    async def start(self, process: Process, *, seconds: float = 60) -> None:
        """Returns once the process is ready; raises NotReadyError."""
        ready = self.start_soon(process)
        try:
            await asyncio.wait_for(asyncio.shield(ready), seconds)
        except TimeoutError:
            raise NotReadyError(f"{process.name} was not ready after {seconds:g} seconds.") from None

    def start_soon(self, process: Process) -> "asyncio.Future[None]":
        """Starts the process without waiting for it; should it never get ready, one line says so."""
        kept = _Kept(process)
        kept.keeping = asyncio.create_task(self._keep(kept))
        self._kept.append(kept)
        return kept.ready

    async def run(self, process: Process) -> tuple[int, str]:
        """Runs a process that ends by itself: its exit code and what it printed."""
        kept = _Kept(process)
        self._kept.append(kept)
        printed: list[bytes] = []
        code = await self._run_once(kept, printed.append)
        self._kept.remove(kept)
        return code, b"\n".join(printed).decode(errors="replace")

    async def stop(self) -> None:
        """Stops everything, last started first: SIGTERM, after `stop_seconds` SIGKILL to its whole process group."""
        self.stopping = True
        keeping = [kept.keeping for kept in self._kept if kept.keeping]
        for task in keeping:
            task.cancel()  # the process itself lives on, but nothing is started again
        await asyncio.gather(*keeping, return_exceptions=True)
        while self._kept:
            await self._end(self._kept[-1])
            self._kept.pop()

    def kill(self) -> None:
        """Kills everything at once; `stop` then returns quickly."""
        for group in self._groups:
            _signal_group(group, signal.SIGKILL)

    def say(self, line: str) -> None:
        self._write("serve", line.encode())

    async def _keep(self, kept: "_Kept") -> None:
        name = kept.process.name
        delay = FIRST_DELAY_SECONDS
        for starts in itertools.count(1):
            began = time.monotonic()
            try:
                ending = _ending(await self._run_once(kept, lambda line: self._write(name, line)))
            except OSError as error:  # no such command, no memory
                ending = str(error)
            if starts == FALSE_STARTS and not kept.ready.done():
                self.say(f"{name} does not start ({ending}): left out.")
                kept.fail(f"{name} does not start ({ending}).")
                return
            if time.monotonic() - began > STEADY_SECONDS:
                delay = FIRST_DELAY_SECONDS
            self.say(f"{name} ended ({ending}): starting it again in {delay:g} s.")
            await asyncio.sleep(delay)
            delay = min(delay * 2, MAX_DELAY_SECONDS)

    async def _run_once(self, kept: "_Kept", put: Callable[[bytes], None]) -> int:
        """Starts the process and sees it to its end. When this is cancelled the process lives on, for `stop` to end."""
        # A pipe made by asyncio would keep `wait` from returning while a grandchild holds it open.
        read, write = os.pipe()
        kept.relaying = asyncio.create_task(_relay(read, put))
        try:
            kept.child = await self._spawn(kept.process, write)
        finally:
            os.close(write)
        self._groups.add(kept.child.pid)
        probing = asyncio.create_task(kept.wait_until_ready())
        try:
            code = await kept.child.wait()
        finally:
            probing.cancel()
        await self._bury(kept)
        return code

    async def _spawn(self, process: Process, output: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *process.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=self._directory,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **process.environment},
            start_new_session=True,
            # The child names its group to the guardian before it becomes its command: there is no moment in which
            # the manager could be killed and the child be unknown.
            preexec_fn=self._announce,
        )

    def _announce(self) -> None:
        os.write(self._guardian_hears, b"+%d\n" % os.getpid())

    async def _end(self, kept: "_Kept") -> None:
        if not kept.child:
            return
        with contextlib.suppress(ProcessLookupError):
            kept.child.terminate()
        try:
            await asyncio.wait_for(kept.child.wait(), kept.process.stop_seconds)
        except TimeoutError:
            _signal_group(kept.child.pid, signal.SIGKILL)
            await kept.child.wait()
        await self._bury(kept)

    async def _bury(self, kept: "_Kept") -> None:
        """The leader of the group has ended: so must what it started; and its last words are passed on."""
        if kept.child:
            _signal_group(kept.child.pid, signal.SIGKILL)
            self._groups.discard(kept.child.pid)
            os.write(self._guardian_hears, b"-%d\n" % kept.child.pid)
            kept.child = None
        if kept.relaying:
            await asyncio.wait({kept.relaying}, timeout=1)
            kept.relaying.cancel()

    async def _start_guardian(self) -> None:
        self._guardian = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(GUARDIAN)),
            stdin=self._guardian_reads,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=self._held,
        )

    async def _guard(self) -> None:
        while self._guardian:
            await self._guardian.wait()
            await asyncio.sleep(FIRST_DELAY_SECONDS)
            await self._start_guardian()
            for group in self._groups:
                os.write(self._guardian_hears, b"+%d\n" % group)

    def _write(self, name: str, line: bytes) -> None:
        colour = self._colours.setdefault(name, COLOURS[len(self._colours) % len(COLOURS)])
        prefix = f"\x1b[{colour}m{name:>7} |\x1b[0m " if self._colour else f"{name:>7} | "
        with contextlib.suppress(OSError):  # nobody reads any more: no reason to stop serving
            self._output.write(prefix.encode() + line + b"\n")
            self._output.flush()


class _Kept:
    """A process and how it is doing."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.child: asyncio.subprocess.Process | None = None
        self.keeping: asyncio.Task[None] | None = None
        self.relaying: asyncio.Task[None] | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait_until_ready(self) -> None:
        while self.process.ready:
            if await _tried(self.process.ready):
                break
            await asyncio.sleep(0.05)
        if not self.ready.done():
            self.ready.set_result(None)

    def fail(self, sentence: str) -> None:
        self.ready.set_exception(NotReadyError(sentence))
        self.ready.exception()  # seen: a process nobody waits for must not warn about it


async def _tried(ready: Ready) -> bool:
    try:
        return await asyncio.wait_for(ready(), PROBE_SECONDS)
    except TimeoutError:
        return False


async def _relay(read: int, put: Callable[[bytes], None]) -> None:
    """Passes on, line by line, what arrives on a pipe."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(read, "rb", 0))
    rest = b""
    with contextlib.closing(transport):
        while chunk := await reader.read(65_536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                put(line)
        if rest:
            put(rest)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone; macOS: "not permitted" for zombies
        os.killpg(group, number)


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
