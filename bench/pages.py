"""Times the site's pages, as requested by a browser that is logged in."""

import http.client
import time
from array import array
from contextlib import closing

from bench.load import Percentiles

WARM_UP_REQUESTS = 5


def time_page(port: int, path: str, session_key: str, count: int) -> Percentiles:
    """Return the milliseconds from request to last byte of `count` requests in sequence. Raises OSError if refused."""
    times_ms = array("d")
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        for _ in range(WARM_UP_REQUESTS + count):
            begun = time.perf_counter()
            connection.request("GET", path, headers={"Cookie": f"sessionid={session_key}"})
            response = connection.getresponse()
            response.read()
            times_ms.append((time.perf_counter() - begun) * 1e3)
            if response.status != 200:
                raise OSError(f"{path}: {response.status}")
    return Percentiles.of(times_ms[WARM_UP_REQUESTS:])
