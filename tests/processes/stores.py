"""A site for tests: on the stores this run is about, with a provider in this process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from testbed.provider import FakeProvider
from testbed.site import Site
from tests.fakes.readers import Member
from tests.services import migrated_databases, new_database_name

BOUND_SECONDS = 45
"""Within what time every process ends after SIGTERM: DRAIN_SECONDS, and what the docs add to it."""

METRICS_TOKEN, PROVIDER_KEY = "planted-metrics-token", "sk-planted-provider-key"
"""No process may ever say them."""


class TestedSite(Site):
    """A site, and the provider its models come from."""

    __test__ = False
    provider: FakeProvider
    redis_clock: Path | None = None
    """A file that says how far Redis's clock is ahead, such as `+1h`; None where it goes by that of the machine."""

    def people(self, count: int, **plan: object) -> list[Member]:
        """Return new members; on a plan with the given fields, else on Free."""
        return [Member(access, self.port) for access in self.create_members(count, plan=plan or None)]

    def restart(self, name: str) -> None:
        """Stop one process as a deploy does, however long it takes, and start a new one."""
        child = self._children[name]
        child.terminate()
        child.wait(BOUND_SECONDS)
        self.start(name)

    def _command(self, name: str) -> list[str]:
        command = super()._command(name)
        if name != "valkey" or self.redis_clock is None:
            return command
        clock = [f"LD_PRELOAD={clock_library()}", f"FAKETIME_TIMESTAMP_FILE={self.redis_clock}", "FAKETIME_NO_CACHE=1"]
        return ["env", *clock, "FAKETIME_DONT_FAKE_MONOTONIC=1", *command]

    def redis_size(self) -> int:
        """Return how many bytes Redis has written to its append-only file."""
        return self._redis_file().stat().st_size

    def truncate_redis(self, size: int) -> None:
        """Forget what a Redis that was killed had written after its file was so large, as a lost `fsync` would."""
        with self._redis_file().open("r+b") as file:
            file.truncate(min(size, self.redis_size()))

    def cut_postgresql(self) -> None:
        """Cut every connection to the site's database."""
        with self._as_operator() as (connection, name):
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

    def let_postgresql_in(self, *, is_open: bool) -> None:
        """Let nobody connect to the site's database any more, or again."""
        with self._as_operator() as (connection, name):
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {str(is_open).lower()}")

    @contextmanager
    def _as_operator(self) -> Iterator[tuple[psycopg.Connection, str]]:
        """Connect to another database of the server, as the site's own may be closed; yield the site's name, too."""
        address = urlsplit(self.environment["DATABASE_URL"])
        with psycopg.connect(address._replace(path="/postgres").geturl(), autocommit=True) as connection:
            yield connection, address.path[1:]

    def _redis_file(self) -> Path:
        return max((Path(self.environment["DATA_DIR"]) / "valkey" / "appendonlydir").glob("*.incr.aof"))


@contextmanager
def run_site(
    models: list[str],
    *,
    webs: int,
    runners: int,
    workers: int = 1,
    redis_clock: Path | None = None,
    **environment: str,
) -> Iterator[TestedSite]:
    """Run a site whose models play what their names say; print its logs if the block fails."""
    environment = fresh_store() | environment
    databases = None if "DATABASE_URL" in environment else migrated_databases()
    with FakeProvider() as provider:
        tested = TestedSite(
            provider.url,
            models,
            webs=webs,
            runners=runners,
            workers=workers,
            environment=environment,
            databases=databases,
        )
        tested.provider, tested.redis_clock = provider, redis_clock
        with tested as site:
            try:
                yield site
            except BaseException:
                print(site.logs())
                raise


def clock_library() -> Path | None:
    """Return Debian's libfaketime, by which a process can have a clock of its own; None where it is not installed."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def fresh_store() -> dict[str, str]:
    """Return the address of databases nobody has used, on the stores of this run."""
    name = new_database_name()
    addresses = {}
    if address := os.environ.get("DATABASE_URL"):
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        addresses["DATABASE_URL"] = urlsplit(address)._replace(path=f"/{name}").geturl()
    if address := os.environ.get("MONGODB_URI"):
        addresses |= {"MONGODB_URI": address, "MONGODB_DATABASE": name}
    return addresses
