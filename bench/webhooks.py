"""`python -m bench.webhooks`: what forged notifications of payments do to chats beside them.

Asks a site for answers at 50 tokens a second, without and then beside forged notifications that come as fast as eight
connections take them, until there were 5,000. Prints the 99th percentiles of both and their ratio, how fast the forged
ones were refused, and how many rows they left.
"""

import argparse
import http.client
import json
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from bench import baselines, conditions
from bench.load import Load, measure_load
from bench.results import format_number
from testbed.many_connections import allow_many_sockets
from testbed.site import Site

UUID = "7f9f0a4e-33a5-4d2a-9f3c-5a8b8e1d2c3b"
SETTINGS = {
    "STRIPE_SECRET_KEY": "sk_test_of_the_bench_0123456789",
    "STRIPE_WEBHOOK_SECRET": "whsec_of_the_bench",
    "STRIPE_WEBHOOK_UUID": UUID,
    "MERCADOPAGO_ACCESS_TOKEN": "TEST-of-the-bench",
    "MERCADOPAGO_WEBHOOK_SECRET": "a-secret-of-the-bench",
    "MERCADOPAGO_COUNTRY": "AR",
    "MERCADOPAGO_MODE": "test",
}
PLACES = ((f"/stripe/webhook/{UUID}/", 400), ("/webhooks/mercadopago/?data.id=1&type=payment", 401))
MODEL, STREAMS, ROUNDS = "fake-200t-20ms-ns", 50, 3
FORGED, CONNECTIONS = 5_000, 8
UNLIMITED = {"turns_per_hour": None, "turns_at_once": None, "credits_per_month": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forge", type=int, metavar="PORT", help="only forge notifications, to a site that runs")
    given = parser.parse_args()
    if given.forge:
        print(json.dumps(forge(given.forge)))
        return
    allow_many_sockets()
    with (
        baselines.provider() as provider,
        Site(provider.url, [MODEL], cores=baselines.pick_core(-1), environment=SETTINGS) as site,
    ):
        people = tuple(site.create_members(STREAMS, plan=UNLIMITED))
        load = Load("socket", f"http://127.0.0.1:{site.port()}", MODEL, STREAMS, ROUNDS, people, ramp_seconds=2)
        measure_load(load)  # fills caches, opens connections
        alone, rows = measure_load(load), site.count_rows()
        command = [sys.executable, "-m", "bench.webhooks", "--forge", str(site.port())]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forger:
            beside = measure_load(load)
            forged = json.loads(forger.communicate()[0])
        left = site.count_rows() - rows - 2 * beside.completed  # a reservation and a record of each turn
    print(conditions.describe_machine())
    print_ratio("to a token", alone.token_added_ms.p99, beside.token_added_ms.p99)
    print_ratio("to the first token", alone.first_token_added_ms.p99, beside.first_token_added_ms.p99)
    print(f"{forged['count']:,} forged ones in {forged['seconds']:.1f} s: {forged['answers']}; rows they left: {left}")
    print(f"turns: {alone.completed} and {beside.completed} completed, errors: {alone.errors} and {beside.errors}")


def print_ratio(what: str, alone: float | None, beside: float | None) -> None:
    ratio = beside / alone if alone and beside else None
    print(
        f"p99 added {what}: {format_number(alone)} ms without, {format_number(beside)} ms beside forged notifications: "
        f"{format_number(ratio)} times"
    )


def forge(port: int) -> dict[str, object]:
    """Send them all, and return what was answered, how often."""
    began = time.monotonic()
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        answers = sum(threads.map(_forge_some, [(port, number) for number in range(CONNECTIONS)]), Counter[str]())
    return {"count": sum(answers.values()), "answers": answers, "seconds": time.monotonic() - began}


def _forge_some(given: tuple[int, int]) -> "Counter[str]":
    port, first = given
    answers = Counter[str]()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        for number in range(first, FORGED, CONNECTIONS):
            place, expected = PLACES[number % len(PLACES)]
            body = json.dumps({"id": f"evt_{number}", "type": "invoice.paid", "livemode": False, "data": {"id": "1"}})
            now = int(time.time())
            signed = f"t={now},v1={'0' * 64}" if expected == 400 else f"ts={now},v1={'0' * 64}"
            header = "Stripe-Signature" if expected == 400 else "x-signature"
            connection.request("POST", place, body, {"Content-Type": "application/json", header: signed})
            response = connection.getresponse()
            response.read()
            answers[f"{response.status}"] += 1
    return answers


if __name__ == "__main__":
    main()
