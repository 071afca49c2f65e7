"""The databases: their tables, what search needs, whether what is written stays, and their clocks."""

from collections.abc import Iterator
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections
from django.utils import timezone

from config.backups.databases import ALIASES
from config.database_routers import HISTORY
from config.doctor.clocks import compare
from config.doctor.findings import Finding, either, fail, ok, warn
from core.half_restored import is_half_restored
from core.preparation import find_later, find_missing
from history.text_indexes import HINT, INDEXES

UNSAFE = {
    "fsync": ("off",),
    "full_page_writes": ("off",),
    "synchronous_commit": ("off",),
}
"""Settings of PostgreSQL with which a server that loses power loses what it acknowledged."""


def examine_databases() -> Iterator[Finding]:
    for alias in ALIASES:
        yield from _examine_tables(alias)
        connection = connections[alias]
        if connection.vendor == "postgresql":
            yield from _examine_postgresql(alias)
        elif connection.vendor == "mongodb":
            yield from _examine_mongodb(connection)
    if connections[HISTORY].vendor == "postgresql":
        yield _examine_trigrams()


def _examine_tables(alias: str) -> Iterator[Finding]:
    subject = f"tables of {alias}"
    if alias == DEFAULT_DB_ALIAS and is_half_restored():
        yield fail(subject, "A restore was broken off.", "Run “manage.py restore” again: it begins from the beginning.")
    if missing := find_missing(alias):
        yield fail(
            subject,
            f"They are not as far as this release: {missing}.",
            "Run “manage.py prepare”, before the processes of this release start.",
        )
    if later := find_later(alias):
        yield warn(
            subject,
            f"A later release has made tables here that this one does not know: {'.'.join(later)}.",
            "Install that release; an earlier one goes on for the time of an upgrade only.",
        )
    if not missing and not later:
        yield ok(subject, "as this release makes them")


def _examine_postgresql(alias: str) -> Iterator[Finding]:
    with connections[alias].cursor() as cursor:
        for name, unsafe in UNSAFE.items():
            cursor.execute(f"SHOW {name}")
            (value,) = cursor.fetchone()
            if value in unsafe:
                yield fail(
                    f"PostgreSQL, {alias}",
                    f"{name} is {value}: what was acknowledged is lost when the machine loses power.",
                    f"Take {name} out of postgresql.conf, and reload the server.",
                )
        cursor.execute("SELECT pg_is_in_recovery()")
        if cursor.fetchone()[0]:
            yield fail(
                f"PostgreSQL, {alias}",
                "The server is a replica, and takes no writes.",
                "Let DATABASE_URL name the primary.",
            )
        cursor.execute("SELECT clock_timestamp()")
        yield compare(f"clock of PostgreSQL, {alias}", cursor.fetchone()[0])


def _examine_trigrams() -> Finding:
    with connections[HISTORY].cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid"
            " WHERE relname = ANY(%s) AND indisvalid",
            [list(INDEXES)],
        )
        found = cursor.fetchone()[0]
    return either(
        found == len(INDEXES),
        ok("search (pg_trgm)", "has its indexes"),
        warn("search (pg_trgm)", f"{found} of its {len(INDEXES)} indexes are there.", HINT),
    )


def _examine_mongodb(connection: Any) -> Iterator[Finding]:
    client = connection.database.client
    hello = client.admin.command("hello")
    yield either(
        hello.get("setName") or hello.get("msg") == "isdbgrid",
        ok("MongoDB, replica set", str(hello.get("setName", "sharded"))),
        warn(
            "MongoDB, replica set",
            "It is a single server: nothing takes its place when it is away.",
            "A replica set of three is the usual choice; one of one member at least has a log of its writes.",
        ),
    )
    concern = client.write_concern.document
    yield either(
        concern.get("j") and concern.get("w") != 0,
        ok("MongoDB, journal", "a write is acknowledged when it is in the journal"),
        fail(
            "MongoDB, journal",
            "Writes are acknowledged before they are in the journal: a crash loses the last ones.",
            "Take journal, w=0 out of MONGODB_URI.",
        ),
    )
    preference = client.read_preference.mongos_mode
    yield either(
        preference == "primary",
        ok("MongoDB, reads", "from the primary"),
        fail(
            "MongoDB, reads",
            f"They are of “{preference}”: a page may not have what was just written.",
            "Take readPreference out of MONGODB_URI.",
        ),
    )
    if moment := hello.get("localTime"):
        yield compare("clock of MongoDB", timezone.make_aware(moment) if moment.tzinfo is None else moment)
