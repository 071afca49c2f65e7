"""Supervises processes: starts them in order, restarts those that die, stops all of them, and leaves none behind.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from config.embedded.readiness import Probe, wait_until_ready

GUARDIAN_SCRIPT = Path(__file__).with_name("guardian.py")
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95)
FIRST_RESTART_SECONDS = 0.5
MAX_RESTART_SECONDS = 10.0
STABLE_SECONDS = 30.0  # a process that ran this long has recovered: its next restart is quick again
MAX_FAILED_STARTS = 4  # a process that ends this often before it was ever ready is not started again


@dataclass(frozen=True)
class Process:
    """A command to run. Without a `probe` it counts as ready once it is started."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)  # on top of the supervisor's own
    probe: Probe | None = None
    stop_seconds: float = 5.0  # between SIGTERM and SIGKILL


class NotReadyError(Exception):
    """A process did not become ready. The message is one sentence."""


class Supervisor:
    """`async with Supervisor(directory) as supervisor:` runs processes until the block is left, then stops them, the
    last started first. `inherited_files` are open files (a lock) that the guardian holds open until every process has
    ended, even when the supervisor is killed.
    """

    def __init__(self, directory: Path, *, output: BinaryIO | None = None, inherited_files: Sequence[int] = ()) -> None:
        self.is_stopping = False
        self._directory = directory
        self._output = output or sys.stdout.buffer
        self._has_colours = self._output.isatty() and "NO_COLOR" not in os.environ
        self._colours: dict[str, int] = {}
        self._inherited_files = inherited_files
        self._groups: set[int] = set()
        self._children: list[_Child] = []
        # Both ends of the guardian's pipe stay open here: when a guardian dies, the next one reads the same pipe.
        self._pipe_read, self._pipe_write = os.pipe()
        self._guardian: asyncio.subprocess.Process | None = None
        self._guardian_task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._start_guardian()
        self._guardian_task = asyncio.create_task(self._keep_guardian_running())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
        if self._guardian_task:
            self._guardian_task.cancel()
        os.close(self._pipe_write)
        os.close(self._pipe_read)
        if self._guardian:
            await self._guardian.wait()

    async def start(self, process: Process, *, timeout_seconds: float = 60) -> None:
        """Start the process and wait until it is ready; raises NotReadyError."""
        ready = self.start_soon(process)
        try:
            await asyncio.wait_for(asyncio.shield(ready), timeout_seconds)
        except TimeoutError:
            raise NotReadyError(f"{process.name} was not ready after {timeout_seconds:g} seconds.") from None

    def start_soon(self, process: Process) -> "asyncio.Future[None]":
        """Start the process without waiting for it; if it never becomes ready, one line of the output says so."""
        child = _Child(process)
        child.supervising = asyncio.create_task(self._keep_running(child))
        self._children.append(child)
        return child.ready

    async def run(self, process: Process) -> tuple[int, str]:
        """Run a process that ends by itself; return its exit code and what it printed."""
        child = _Child(process)
        self._children.append(child)
        printed: list[bytes] = []
        exit_code = await self._run_once(child, printed.append)
        self._children.remove(child)
        return exit_code, b"\n".join(printed).decode(errors="replace")

    async def stop(self) -> None:
        """Stop everything, last started first: SIGTERM, after `stop_seconds` SIGKILL to its whole process group."""
        self.is_stopping = True
        supervising = [child.supervising for child in self._children if child.supervising]
        for task in supervising:
            task.cancel()  # the process itself lives on, but nothing is started again
        await asyncio.gather(*supervising, return_exceptions=True)
        while self._children:
            await self._stop_child(self._children[-1])
            self._children.pop()

    def kill(self) -> None:
        """Kill everything at once; `stop` then returns quickly."""
        for group in self._groups:
            _signal_group(group, signal.SIGKILL)

    def print_line(self, line: str) -> None:
        """Print a line of the supervisor's own among those of the processes."""
        self._print("serve", line.encode())

    async def _keep_running(self, child: "_Child") -> None:
        name = child.process.name
        delay_seconds = FIRST_RESTART_SECONDS
        for starts in itertools.count(1):
            started_at = time.monotonic()
            try:
                reason = _describe_exit(await self._run_once(child, lambda line: self._print(name, line)))
            except OSError as error:  # no such command, no memory
                reason = str(error)
            if starts == MAX_FAILED_STARTS and not child.ready.done():
                self.print_line(f"{name} does not start ({reason}): left out.")
                child.set_failed(f"{name} does not start ({reason}).")
                return
            if time.monotonic() - started_at > STABLE_SECONDS:
                delay_seconds = FIRST_RESTART_SECONDS
            self.print_line(f"{name} ended ({reason}): starting it again in {delay_seconds:g} s.")
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(delay_seconds * 2, MAX_RESTART_SECONDS)

    async def _run_once(self, child: "_Child", handle_line: Callable[[bytes], None]) -> int:
        """Start the process and wait for its end. When this is cancelled the process lives on, for `stop` to end."""
        # A pipe made by asyncio would keep `wait` from returning while a grandchild holds it open.
        read, write = os.pipe()
        child.reading_output = asyncio.create_task(_read_lines(read, handle_line))
        try:
            child.running = await self._spawn(child.process, write)
        finally:
            os.close(write)
        self._groups.add(child.running.pid)
        probing = asyncio.create_task(child.wait_until_ready())
        try:
            exit_code = await child.running.wait()
        finally:
            probing.cancel()
        await self._clean_up(child)
        return exit_code

    async def _spawn(self, process: Process, output: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *process.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=self._directory,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **process.environment},
            start_new_session=True,
            # The child itself tells the guardian of its group, before it becomes the command: otherwise the supervisor
            # could be killed just after the child was started, and the guardian would not know of it.
            preexec_fn=self._register_group,
        )

    def _register_group(self) -> None:
        os.write(self._pipe_write, b"+%d\n" % os.getpid())

    async def _stop_child(self, child: "_Child") -> None:
        if not child.running:
            return
        with contextlib.suppress(ProcessLookupError):
            child.running.terminate()
        try:
            await asyncio.wait_for(child.running.wait(), child.process.stop_seconds)
        except TimeoutError:
            _signal_group(child.running.pid, signal.SIGKILL)
            await child.running.wait()
        await self._clean_up(child)

    async def _clean_up(self, child: "_Child") -> None:
        """When the leader of a process group has ended: kill what remains of the group, and pass on the last output."""
        if child.running:
            _signal_group(child.running.pid, signal.SIGKILL)
            self._groups.discard(child.running.pid)
            os.write(self._pipe_write, b"-%d\n" % child.running.pid)
            child.running = None
        if child.reading_output:
            await asyncio.wait({child.reading_output}, timeout=1)
            child.reading_output.cancel()

    async def _start_guardian(self) -> None:
        self._guardian = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(GUARDIAN_SCRIPT)),
            stdin=self._pipe_read,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=self._inherited_files,
        )

    async def _keep_guardian_running(self) -> None:
        while self._guardian:
            await self._guardian.wait()
            await asyncio.sleep(FIRST_RESTART_SECONDS)
            await self._start_guardian()
            for group in self._groups:
                os.write(self._pipe_write, b"+%d\n" % group)

    def _print(self, name: str, line: bytes) -> None:
        colour = self._colours.setdefault(name, COLOURS[len(self._colours) % len(COLOURS)])
        prefix = f"\x1b[{colour}m{name:>7} |\x1b[0m " if self._has_colours else f"{name:>7} | "
        with contextlib.suppress(OSError):  # nobody reads the output any more: no reason to stop the site
            self._output.write(prefix.encode() + line + b"\n")
            self._output.flush()


class _Child:
    """A process under supervision; `running` is its current run, None between two."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.running: asyncio.subprocess.Process | None = None
        self.supervising: asyncio.Task[None] | None = None
        self.reading_output: asyncio.Task[None] | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait_until_ready(self) -> None:
        if self.process.probe:
            await wait_until_ready(self.process.probe)
        if not self.ready.done():
            self.ready.set_result(None)

    def set_failed(self, sentence: str) -> None:
        self.ready.set_exception(NotReadyError(sentence))
        self.ready.exception()  # counts as retrieved: asyncio must not warn of a process that nobody waits for


async def _read_lines(read: int, handle_line: Callable[[bytes], None]) -> None:
    """Pass on, line by line, what arrives on a pipe."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(read, "rb", 0))
    rest = b""
    with contextlib.closing(transport):
        while chunk := await reader.read(65_536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                handle_line(line)
        if rest:
            handle_line(rest)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone; macOS: "not permitted" for zombies
        os.killpg(group, number)


def _describe_exit(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
