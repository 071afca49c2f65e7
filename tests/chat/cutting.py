"""Databases that are away, or whose connection breaks under a thread of the pool."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper


class Databases:
    """What happens to the statements of the pool's threads: the one after `cut_after` others loses its connection, and
    all of them do while they are `away`."""

    def __init__(self) -> None:
        self.cut_after: int | None = None
        self.is_away = False
        self.cuts = 0

    def before(self, connection: BaseDatabaseWrapper) -> None:
        if not threading.current_thread().name.startswith("in-thread"):
            return
        if self.is_away:
            raise OperationalError("away")
        if self.cut_after is None:
            return
        if self.cut_after == 0:
            self.cuts += 1
            self.cut_after = None
            if connection.vendor != "postgresql":  # only there is a connection that another one replaces
                raise OperationalError("cut")
            connection.connection.close()
        else:
            self.cut_after -= 1


@contextmanager
def breakable_databases() -> Iterator[Databases]:
    databases = Databases()
    ensure = BaseDatabaseWrapper.ensure_connection

    def ensure_and_break(self: BaseDatabaseWrapper) -> None:
        ensure(self)
        databases.before(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseDatabaseWrapper, "ensure_connection", ensure_and_break)
        yield databases
