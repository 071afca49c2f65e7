"""Readers whose lines are slow."""

from bench.connections import SLOW_BYTES_PER_SECOND
from bench.load import Load
from bench.slow_readers import measure_with_crowd
from testbed.provider import FakeProvider
from tests.bench.relay import Relay

FAST = "fake-20t-20ms-ns"
HEAVY = "fake-90t-100ms-p2000-ns"


def test_slow_readers_fall_behind_and_fast_ones_do_not() -> None:
    with FakeProvider() as provider, Relay(provider.url) as site:
        slow = Load("slow-socket", site.url, HEAVY, streams=3, access_tokens=("token",))
        crowd = measure_with_crowd(
            slow, Load("socket", site.url, FAST, streams=2, access_tokens=("token",)), lead_seconds=1
        )
    assert crowd.fast.ok
    assert crowd.fast.completed == 2
    assert crowd.read_share < 2 * SLOW_BYTES_PER_SECOND / 20_000
