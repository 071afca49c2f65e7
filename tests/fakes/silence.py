"""A TCP proxy that can fall silent, as a server behind a broken network or a frozen one does: it still takes
connections and bytes, and nothing comes back."""

import contextlib
import socket
import threading
from typing import Self

import pytest

from core.gate import Gate


class SilentProxy:
    """`with SilentProxy(target) as proxy:` passes bytes on from `proxy.port`, and drops them while `is_silent`.

    `target` is a port of this machine, or the path of a socket. Connections that lived through a silence stay silent.
    """

    def __init__(self, target: int | str) -> None:
        self.is_silent = False
        self._target = target
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        for found in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)
            found.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _address = self._listener.accept()
            except OSError:
                return
            self._sockets.append(near)
            if self.is_silent:
                continue
            far = socket.socket(socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET)
            far.connect(self._target if isinstance(self._target, str) else ("127.0.0.1", self._target))
            self._sockets.append(far)
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        was_silent = False
        with contextlib.suppress(OSError):
            while chunk := source.recv(65_536):
                was_silent = was_silent or self.is_silent
                if not was_silent:
                    sink.sendall(chunk)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


class CountedWaits:
    """Counts who waits for a silent store, and who is refused at once, as its gate says: by the clock, a busy machine
    would be a silent store."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._asked: list[tuple[Gate, bool]] = []
        refuses = Gate.refuses

        def ask(gate: Gate) -> bool:
            is_refused = refuses(gate)
            self._asked.append((gate, is_refused))
            return is_refused

        patch.setattr(Gate, "refuses", ask)

    @property
    def refused(self) -> int:
        return sum(is_refused for _gate, is_refused in self._asked)

    @property
    def let_through(self) -> int:
        """How many were let through the gates that refused somebody."""
        closed = {gate for gate, is_refused in self._asked if is_refused}
        return sum(gate in closed and not is_refused for gate, is_refused in self._asked)
