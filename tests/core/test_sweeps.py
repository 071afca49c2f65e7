"""What breaks in one repair is logged, and does not stop the next; a store that is away is no error of ours."""

import pytest
from django.db import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from core.sweeps import guard


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OperationalError("down"), ("WARNING", "Store unreachable")),
        (RedisConnectionError("down"), ("WARNING", "Store unreachable")),
        (ValueError("ours"), ("ERROR", "Repair failed")),
        (ResponseError("WRONGTYPE"), ("ERROR", "Repair failed")),
    ],
)
def test_what_breaks_is_logged_and_kept_from_the_next(
    caplog: pytest.LogCaptureFixture, error: Exception, said: tuple[str, str]
):
    with guard("turns", turn_id=7):
        raise error
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == said
    assert (record.repair, record.turn_id) == ("turns", 7)  # type: ignore[attr-defined]
    assert bool(record.exc_info) == (record.levelname == "ERROR")
