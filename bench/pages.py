"""How long the site takes for a page, as a browser that is logged in asks for it."""

import http.client
import time
from array import array
from contextlib import closing

from bench.load import Percentiles

WARM_UP = 5


def time_page(port: int, path: str, session_key: str, count: int) -> Percentiles:
    """Return the milliseconds from request to last byte, one request after the other. Raises OSError on a refusal."""
    taken = array("d")
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        for _ in range(WARM_UP + count):
            begun = time.perf_counter()
            connection.request("GET", path, headers={"Cookie": f"sessionid={session_key}"})
            response = connection.getresponse()
            response.read()
            taken.append((time.perf_counter() - begun) * 1e3)
            if response.status != 200:
                raise OSError(f"{path}: {response.status}")
    return Percentiles.of(taken[WARM_UP:])
