"""A site for tests: on the stores this run is about, with a provider in this process."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg

from testbed.provider import FakeProvider
from testbed.site import Site
from tests.fakes.readers import Member
from tests.services import STORES


class TestedSite(Site):
    """A site, and the provider its models come from."""

    __test__ = False
    provider: FakeProvider

    def people(self, count: int, **plan: object) -> list[Member]:
        """Return new members; on a plan with the given fields, else on Free."""
        return [Member(access, self.port) for access in self.create_members(count, plan=plan or None)]


@contextmanager
def run_site(models: list[str], *, webs: int, runners: int, **environment: str) -> Iterator[TestedSite]:
    """Run a site whose models play what their names say; print its logs if the block fails."""
    environment |= fresh_store()
    with FakeProvider() as provider:
        with TestedSite(provider.url, models, webs=webs, runners=runners, environment=environment) as site:
            site.provider = provider
            try:
                yield site
            except BaseException:
                print(site.logs())
                raise


def fresh_store() -> dict[str, str]:
    """Return the address of databases nobody has used, on the stores of this run."""
    name = f"site_{secrets.token_hex(4)}"
    if STORES == "postgresql":
        address = os.environ["DATABASE_URL"]
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return {"DATABASE_URL": urlsplit(address)._replace(path=f"/{name}").geturl()}
    if STORES == "mongodb":
        return {"MONGODB_URI": os.environ["MONGODB_URI"], "MONGODB_DATABASE": name}
    return {}
