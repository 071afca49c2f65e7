"""One site for all the tests that leave it whole."""

from collections.abc import Iterator

import pytest

from tests.processes.stores import TestedSite, run_site

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
def site(request: pytest.FixtureRequest) -> Iterator[TestedSite]:
    """Two web processes, two runners, a worker, a Valkey, and a provider that plays what its model's name says."""
    with run_site(MODELS, webs=2, runners=2) as found:
        yield found
        if request.session.testsfailed:
            print(found.logs())
