"""How often somebody may ask."""

import time
from functools import partial

import pytest

from chat.turns import limits
from chat.turns.limits import Limit
from core.errors import RateLimited
from core.redis_clients import sync_redis
from history.models import new_id
from tests.billing.together import together

ANA, BO = 1, 2


def count(user_id: int, an_hour: int | None) -> Limit | None:
    return limits.count_question(user_id, new_id(), turns_per_hour=an_hour)


def uncount(user_id: int, an_hour: int | None) -> None:
    limits.uncount_question(user_id, new_id(), turns_per_hour=an_hour)


def taken(user_id: int, times: int, *, an_hour: int = 20) -> list[Limit | None]:
    return [count(user_id, an_hour) for _ in range(times)]


def test_twenty_an_hour_are_let_through_and_counted_down():
    assert [limit.remaining for limit in taken(ANA, 20)] == list(range(19, -1, -1))


def test_a_limit_says_when_all_are_back():
    first, second = taken(ANA, 2)
    assert first.limit == 20
    assert first.reset_seconds == pytest.approx(180, abs=2)
    assert second.reset_seconds == pytest.approx(360, abs=2)


def test_the_one_after_is_refused_and_told_how_long_to_wait():
    taken(ANA, 20)
    with pytest.raises(RateLimited) as refused:
        count(ANA, 20)
    assert refused.value.status == 429
    assert refused.value.retry_after == pytest.approx(180, abs=5)


def test_being_refused_does_not_lengthen_the_wait():
    taken(ANA, 20)
    for _ in range(30):
        with pytest.raises(RateLimited) as refused:
            count(ANA, 20)
    assert refused.value.retry_after <= 180


def test_one_comes_back_after_its_share_of_the_hour(monkeypatch):
    monkeypatch.setattr(limits, "HOUR_SECONDS", 2)
    taken(ANA, 20)
    time.sleep(0.11)  # a twentieth of two seconds
    taken(ANA, 1)
    with pytest.raises(RateLimited):
        taken(ANA, 2)


def test_what_is_given_back_can_be_taken_again():
    taken(ANA, 20)
    uncount(ANA, 20)
    assert count(ANA, 20).remaining == 0
    with pytest.raises(RateLimited):
        count(ANA, 20)


def test_a_clock_that_ran_ahead_and_was_set_back_locks_nobody_out():
    taken(ANA, 1)
    (key,) = sync_redis().keys("limit:*")
    sync_redis().set(key, int((time.time() + 86_400) * 1_000_000))
    with pytest.raises(RateLimited) as refused:
        count(ANA, 20)
    assert refused.value.retry_after <= 181
    assert int(sync_redis().get(key)) <= (time.time() + 3_600) * 1_000_000  # from there it runs down


def test_giving_back_what_was_never_taken_brings_nothing():
    uncount(ANA, 20)
    taken(ANA, 20)
    with pytest.raises(RateLimited):
        count(ANA, 20)


def test_giving_back_too_much_brings_no_more_than_the_limit():
    taken(ANA, 1)
    for _ in range(5):
        uncount(ANA, 20)
    taken(ANA, 20)
    with pytest.raises(RateLimited):
        count(ANA, 20)


def test_of_fifty_at_once_exactly_twenty_are_let_through():
    answers = together([partial(count, ANA, 20)] * 50)
    assert sum(isinstance(answer, Limit) for answer in answers) == 20
    assert sum(isinstance(answer, RateLimited) for answer in answers) == 30


def test_everybody_has_a_limit_of_their_own():
    taken(ANA, 20)
    assert count(BO, 20).remaining == 19


def test_a_better_plan_shortens_the_wait():
    taken(ANA, 20)
    with pytest.raises(RateLimited) as refused:
        count(ANA, 1_000)
    assert refused.value.retry_after == pytest.approx(3.6, abs=0.5)


def test_no_limit_counts_nothing():
    assert taken(ANA, 100, an_hour=None) == [None] * 100
    assert uncount(ANA, None) is None
    assert not sync_redis().keys("limit:*")


def test_the_count_is_forgotten_once_all_are_back():
    taken(ANA, 3)
    (key,) = sync_redis().keys("limit:*")
    assert 0 < sync_redis().ttl(key) <= 3 * 180


def test_a_limit_of_zero_refuses_everything_with_a_wait_that_can_be_told():
    with pytest.raises(RateLimited) as refused:
        count(ANA, 0)
    assert refused.value.retry_after is None or refused.value.retry_after >= 0
