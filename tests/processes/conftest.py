"""One site for all the tests that leave it whole."""

from collections.abc import Iterator

import pytest

from tests.fakes.collector import Collector
from tests.processes.stores import METRICS_TOKEN, PROVIDER_KEY, TestedSite, run_site

MODELS = [
    "fake-20t-5ms",
    "fake-200t-10ms",
    "fake-600t-10ms-unicode",
    "fake-300t-20ms-r20",
    "fake-300t-200ms",
    "fake-100t-200ms",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "processes" in item.path.parts:
            item.add_marker(pytest.mark.processes)


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """What the site tells of its errors and spans."""
    with Collector() as found:
        yield found
        found.shutdown()


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest, collector: Collector) -> Iterator[TestedSite]:
    """Two web processes, two runners, a worker, a Valkey, and a provider that plays what its model's name says. They
    are watched as in production."""
    address = f"127.0.0.1:{collector.server_port}"
    watched = {"LOG_FORMAT": "json", "METRICS_TOKEN": METRICS_TOKEN, "SENTRY_DSN": f"http://public@{address}/1"}
    watched |= {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{address}", "OTEL_BSP_SCHEDULE_DELAY": "200"}
    with run_site(MODELS, webs=2, runners=2, OPENAI_COMPATIBLE_API_KEY=PROVIDER_KEY, **watched) as found:
        yield found
        if request.session.testsfailed:
            print(found.logs())
