"""Several writers and readers at once: nothing is lost, and nothing is seen that never was."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from kvatlas.index.block_index import BlockIndex
from tests.index.backends.telling import Keys, add, enroll, held, remove, runs
from tests.models.world import GPU, chain

WRITERS = 4


def run_together(works: Sequence[Callable[[], None]]) -> None:
    """Each in a thread; raises the first error of any."""
    failures: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.slow
def test_writers_of_the_same_blocks_lose_nothing(index: BlockIndex) -> None:
    keys = chain(300, 100)
    lanes = range(WRITERS * 5)
    enroll(index, *lanes)

    def write(first: int) -> None:
        for lane in range(first, len(lanes), WRITERS):
            for end in range(50, 301, 50):
                add(index, lane, keys[:end], first=end - 50)
            remove(index, lane, keys, first=300 - lane)

    run_together([lambda first=first: write(first) for first in range(WRITERS)])  # type: ignore[misc]
    assert runs(index.match(keys)) == {lane: 300 - lane for lane in lanes}


@pytest.mark.slow
def test_readers_see_only_what_was_true_at_some_moment(index: BlockIndex) -> None:
    """A writer's lane grows and shrinks at the tail: what is held is always a leading run, and never
    more than the longest that it has had."""
    keys = chain(400, 101)
    enroll(index, *range(WRITERS))
    left = threading.Semaphore(0)
    looks = 0

    def write(lane: int) -> None:
        try:
            for end in (400, 130, 260, 400, 1, 400):
                add(index, lane, keys[:end])
                remove(index, lane, keys, first=end)
        finally:
            left.release()

    def read() -> None:
        nonlocal looks
        over = 0
        while over < WRITERS:
            over += left.acquire(blocking=False)
            assert all(blocks <= 400 for blocks in runs(index.match(keys)).values())
            assert all(tier == GPU for holders in held(index, keys) for tier in holders.values())
            looks += 1

    run_together([*(lambda lane=lane: write(lane) for lane in range(WRITERS)), read])
    assert looks
    assert runs(index.match(keys)) == dict.fromkeys(range(WRITERS), 400)


def test_lanes_are_cleared_and_replaced_beside_writers_of_other_lanes(index: BlockIndex) -> None:
    kept, fleeting = chain(200, 102), chain(200, 103)
    enroll(index, *range(WRITERS))

    def keep(lane: int) -> None:
        for end in range(20, 201, 20):
            add(index, lane, kept[:end], first=end - 20)

    def come_and_go(lane: int) -> None:
        for _ in range(10):
            add(index, lane, fleeting)
            index.remove_lane(lane)

    works: list[Callable[[], None]] = [lambda: keep(0), lambda: keep(1)]
    run_together([*works, lambda: come_and_go(2), lambda: come_and_go(3)])
    assert runs(index.match(kept)) == {0: 200, 1: 200}
    assert runs(index.match(fleeting)) == {}
    assert _lanes(index, kept) == {0, 1}


def _lanes(index: BlockIndex, keys: Keys) -> set[int]:
    return {lane for holders in held(index, keys) for lane in holders}
