"""A TCP proxy that can fall silent, as a server behind a broken network or a frozen one does: it still takes
connections and bytes, and nothing comes back."""

import contextlib
import socket
import threading
from typing import Self


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
