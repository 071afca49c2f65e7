"""One object a loop."""

import asyncio
import gc
import weakref

from core.loops import PerLoop, forget_this_loop


def test_each_loop_has_its_own_and_keeps_it():
    made: list[object] = []
    objects: PerLoop[object] = PerLoop(lambda: made.append(object()) or made[-1])

    async def ask() -> list[object]:
        return [objects.get(), objects.get()]

    first, second = asyncio.run(ask()), asyncio.run(ask())
    assert first[0] is first[1]
    assert second[0] is second[1]
    assert first[0] is not second[0]


def test_what_refers_to_its_loop_does_not_keep_it_for_ever():
    """A worker has a loop of its own for each proof of delivery."""

    class Held:
        def __init__(self) -> None:
            self.loop = asyncio.get_running_loop()

    objects: PerLoop[Held] = PerLoop(Held)
    held: list[weakref.ref[Held]] = []

    async def ask() -> None:
        held.append(weakref.ref(objects.get()))
        forget_this_loop()

    for _ in range(5):
        asyncio.run(ask())
    gc.collect()
    assert [reference() is not None for reference in held] == [False] * 5


async def test_what_was_taken_out_is_made_anew():
    objects: PerLoop[object] = PerLoop(object)
    assert objects.pop() is None
    first = objects.get()
    assert objects.pop() is first
    assert objects.get() is not first


async def test_another_may_be_put_in_its_place():
    objects: PerLoop[object] = PerLoop(object)
    other = object()
    objects.replace(other)
    assert objects.get() is other
