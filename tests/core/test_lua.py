"""Scripts by their names."""

from pathlib import Path

import pytest
from redis import Redis

from core.lua import LuaScript
from core.redis_clients import async_redis, close_async_redis, sync_redis

SOURCE = """
local first, second = KEYS[1], KEYS[2]
local one, two, three = ARGV[1], ARGV[2], ARGV[3]
return {first, second, one, two or false, three or false, #ARGV}
"""


@pytest.fixture
def script(tmp_path: Path) -> LuaScript:
    path = tmp_path / "names.lua"
    path.write_text(SOURCE)
    return LuaScript(path)


def test_what_is_named_arrives_under_its_name(script: LuaScript):
    answer = script(sync_redis(), two=2, second="k2", one="a", first="k1", three=b"c")
    assert answer == [b"k1", b"k2", b"a", b"2", b"c", 3]


async def test_an_asynchronous_client_is_awaited(script: LuaScript):
    assert await script(async_redis(), first="k1", second="k2", one=1, two=2, three=3)
    await close_async_redis()


def test_the_last_names_may_be_left_out(script: LuaScript):
    assert script(sync_redis(), first="k1", second="k2", one=1) == [b"k1", b"k2", b"1", None, None, 1]


def test_more_arguments_come_after_the_named_ones(script: LuaScript):
    assert script(sync_redis(), *"xyz", first="k1", second="k2", one=1, two=2, three=3)[-1] == 6


def test_the_source_is_hashed_once_for_each_class_of_client(script: LuaScript, monkeypatch: pytest.MonkeyPatch):
    registered = []
    register = Redis.register_script
    monkeypatch.setattr(Redis, "register_script", lambda *args: (registered.append(1), register(*args))[1])
    for _ in range(3):
        script(sync_redis(), first="k1", second="k2", one=1)
    assert len(registered) == 1


def test_a_redis_that_has_forgotten_the_script_is_sent_it_again(script: LuaScript):
    script(sync_redis(), first="k1", second="k2", one=1)
    sync_redis().script_flush()
    assert script(sync_redis(), first="k1", second="k2", one=2)[2] == b"2"


def test_a_bound_script_is_called_with_what_is_left(script: LuaScript, monkeypatch: pytest.MonkeyPatch):
    redis = sync_redis()
    run = script.bind(redis, first="k1", second="k2", one=1)
    monkeypatch.setattr(redis, "register_script", None)  # once was enough
    assert run([b"b", 3, "x"]) == [b"k1", b"k2", b"1", b"b", b"3", 4]
    assert run([]) == [b"k1", b"k2", b"1", None, None, 1]


def test_names_may_continue_on_the_next_line(tmp_path: Path):
    path = tmp_path / "long.lua"
    path.write_text("local one, two,\n  three =\n  ARGV[1], ARGV[2],\n  ARGV[3]\nreturn {three}\n")
    assert LuaScript(path)(sync_redis(), one=1, two=2, three=3) == [b"3"]


@pytest.mark.parametrize(
    "named", [{"one": 1, "three": 3}, {"one": 1, "four": 4}], ids=["a gap in the middle", "not of this script"]
)
def test_a_mistake_is_told_before_redis_is_asked(script: LuaScript, named):
    with pytest.raises(AssertionError, match=r"left out|not of this script"):
        script(sync_redis(), first="k1", second="k2", **named)


def test_names_in_another_order_than_their_values_are_refused(tmp_path: Path):
    path = tmp_path / "swapped.lua"
    path.write_text("local a, b = KEYS[1], KEYS[3]\n")
    with pytest.raises(AssertionError, match=r"KEYS\[3\]"):
        LuaScript(path)
