"""A crowd that logs in at once, against a real web process and real hashes."""

import asyncio
import os
from pathlib import Path

import aiohttp
import pytest

from tests.processes.stores import TestedSite

CROWD = 24


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
async def test_a_crowd_that_logs_in_at_once_does_not_fill_the_memory_of_the_web_process(site: TestedSite) -> None:
    before = largest = resident_mb(site)
    url = f"http://127.0.0.1:{site.port()}"
    async with aiohttp.ClientSession(url) as http:

        async def log_in(number: int) -> int:
            body = {"email": f"{number}@example.com", "password": "una clave larga"}
            async with http.post("/api/v1/auth/login", json=body) as answer:
                return answer.status

        crowd = asyncio.gather(*(log_in(number) for number in range(CROWD)))
        while not crowd.done():
            largest = max(largest, resident_mb(site))
            async with http.get("/healthz") as answer:
                assert answer.status == 200
            await asyncio.sleep(0.01)
        assert set(await crowd) <= {401, 503}
        assert (await crowd).count(401) >= 2
    assert largest < before + 120, f"{before:.0f} MB before, then {largest:.0f} MB"


async def test_a_web_process_believes_no_address_that_comes_through_a_proxy_it_was_not_told_of(
    site: TestedSite,
) -> None:
    body = {"email": "nobody@example.com", "password": "una clave larga"}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{site.port()}") as http:
        async with http.post("/api/v1/auth/login", json=body, headers={"X-Forwarded-For": "203.0.113.77"}) as answer:
            assert answer.status == 401
    assert '"peer":"127.0.0.1"' in site.logs()
    assert "203.0.113.77" not in site.logs()


def resident_mb(site: TestedSite) -> float:
    pages = int(Path(f"/proc/{site.pid('web0')}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
