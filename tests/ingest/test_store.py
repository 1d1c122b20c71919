"""The native store beside its model, and its bounds, which the model has not."""

from __future__ import annotations

import random

import pytest

from kvatlas.ingest._native import Store
from tests.models import stores as naive
from tests.models.meaning import Meaning

BLOCK = 16
Lesson = tuple[int, int, int, int, int, list[int]]


def key_of(engine_key: int) -> int:
    """Two engine keys mean one block key each: servers may name blocks differently."""
    return (engine_key // 2) << 8 | 7


def lesson(path: list[int], *, unindexed: bool = False) -> Lesson:
    """The last block of a chain of engine keys."""
    first = len(path) - 1
    segment = key_of(path[first // 128 * 128])
    parent = path[-2] if first else 0
    return (
        path[-1],
        parent,
        0 if unindexed else BLOCK,
        first,
        segment,
        [] if unindexed else [key_of(path[-1])],
    )


def meaning(path: list[int], *, unindexed: bool) -> Meaning:
    blocks = () if unindexed else ((key_of(path[-1]), 0),)
    return Meaning((), blocks, 0, (), None, unindexed="opaque" if unindexed else None)


class Both:
    """A store and its model, told the same; what the store reports is what it holds."""

    def __init__(self, random_: random.Random, blocks_max: int) -> None:
        self.random = random_
        self.blocks_max = blocks_max
        self.native = Store(5, blocks_max)
        self.model = naive.Store(8, blocks_max)
        self.told: set[int] = set()
        self.chains = [self._chain() for _ in range(4)]

    def _chain(self) -> list[int]:
        """A tree's path: chains share heads, and differ from some block on; some in their names only."""
        fork, other = self.random.randrange(12), self.random.randrange(2)
        return [2 + 2 * i + (i > fork) * (other + 1000 * (fork + 1)) for i in range(14)]

    def run(self, steps: int) -> None:
        for _ in range(steps):
            chain = self.random.choice(self.chains)
            n = self.random.randrange(1, len(chain) + 1)
            self.random.choice(
                [self.teach, self.teach, self.hold, self.hold, self.release, self.need, self.reload]
            )(chain[:n])
            self.check()

    def teach(self, path: list[int]) -> None:
        lessons = [lesson(path[: i + 1], unindexed=path[i] % 7 == 0) for i in range(len(path))]
        if self.random.randrange(3) == 0:
            lessons = lessons[-1:]
        self.take(self.native.teach(lessons))
        self.model.learn((one[0], meaning([one[0]], unindexed=not one[5])) for one in lessons)

    def hold(self, path: list[int]) -> None:
        group, chunk = self.random.randrange(2), self.random.choice([1, 1, 2, 3])
        blocks = tuple(path[-chunk:])
        self.take(self.native.teach([lesson(path[: i + 1]) for i in range(len(path))]))
        self.model.learn((key, meaning([key], unindexed=False)) for key in path)
        held, changes = self.native.hold(path[-1], group, len(blocks))
        self.take(changes)
        assert held == self.model.hold(blocks, group)

    def release(self, path: list[int]) -> None:
        names, group = (
            self.random.sample(path, self.random.randrange(1, len(path) + 1)),
            self.random.randrange(2),
        )
        _, unknown, changes = self.native.release(names, group)
        self.take(changes)
        assert unknown == self.model.release(names, group)

    def need(self, path: list[int]) -> None:
        groups = self.random.choice([{0}, {0}, {1}, {0, 1}])
        before = self.native.keys()
        self.native.need_groups(sum(1 << group for group in groups), 1, 8)
        self.model.need(groups)
        self.told = self.told - before | self.native.keys()

    def reload(self, path: list[int]) -> None:
        again = Store(5, self.blocks_max)
        saved = self.native.save(BLOCK)
        again.load(saved, BLOCK)
        assert again.keys() == self.native.keys()
        assert sorted(again.content(2, 8)) == sorted(again.content(2, 8))

    def take(self, changes: list[tuple[int, int, bool]]) -> None:
        for _, key, on in changes:
            assert (key in self.told) != on, "a change is one"
            (self.told.add if on else self.told.discard)(key)

    def check(self) -> None:
        assert self.native.keys() == self.told == set(self.model.residency())
        statistics = self.native.statistics()
        assert statistics["files"] == len(self.model.files)
        assert statistics["blocks"] == len(self.native)


@pytest.mark.native
@pytest.mark.parametrize("seed", range(40))
def test_a_store_holds_what_its_model_does(seed: int) -> None:
    Both(random.Random(seed), 1 << 20).run(120)


def filled(store: Store, chains: int, length: int) -> None:
    for chain in range(chains):
        path = [(chain + 1) << 20 | i << 1 for i in range(length)]
        store.teach([lesson(path[: i + 1]) for i in range(length)])


@pytest.mark.native
def test_what_is_known_is_bounded_and_ends_of_cold_chains_go_first() -> None:
    store = Store(1, 100, 300)
    filled(store, 1, 100)
    held, _ = store.hold(1 << 20 | 20 << 1, 0, 5)
    assert (held, len(store)) == ("now", 5)
    filled(store, 50, 90)
    statistics = store.statistics()
    assert statistics["known"] <= 400
    assert statistics["forgotten"] > 3_000
    assert len(store) == 5, "what lies in files is not forgotten"
    assert store.hold(1 << 20 | 20 << 1, 0, 21)[0] == "before"
    assert len(store) == 21, "nor what comes before it"


@pytest.mark.native
def test_files_that_wait_are_bounded_and_the_oldest_go() -> None:
    store = Store(1, 100, 10)
    for engine_key in range(1, 41):
        assert store.hold(engine_key)[0] == "waits"
    assert (store.statistics()["waiting"], store.statistics()["waiting_dropped"]) == (10, 30)
    assert store.release([1])[1] == [1]
    assert store.release([40])[1] == []
    for _ in range(1_000):
        store.hold(40)
        store.release([40])
    assert store.statistics()["bytes"] < 100_000, "the queue of the waiting is bounded too"


@pytest.mark.native
def test_more_blocks_than_it_may_hold_are_refused() -> None:
    store = Store(1, 3, 100)
    filled(store, 1, 10)
    assert [store.hold(1 << 20 | i << 1)[0] for i in range(5)] == ["now"] * 3 + ["no_room"] * 2
    store.release([1 << 20])
    assert store.hold(1 << 20 | 4 << 1, 0, 2)[0] == "no_room", "a chunk is whole or not there"
    assert store.hold(1 << 20 | 4 << 1)[0] == "now"
    assert Store(1, 0, 0).hold(1)[0] == "no_room"


@pytest.mark.native
def test_a_block_under_thousands_of_files_leaves_with_the_last() -> None:
    store = Store(1)
    root = 1 << 40
    store.teach([lesson([root])])
    for leaf in range(5_000):
        store.teach([lesson([root, 2 * leaf + 2])])
        store.hold(2 * leaf + 2, 0, 2)
    for leaf in range(5_000):
        assert len(store) == 5_001 - leaf
        store.release([2 * leaf + 2])
    assert len(store) == 0


@pytest.mark.native
def test_a_circle_of_parents_does_no_harm() -> None:
    store = Store(1)
    plain: list[Lesson] = [
        (engine_key, parent, 0, 0, 0, []) for engine_key, parent in [(1, 0), (2, 1), (3, 2), (1, 3)]
    ]
    for _ in range(2):
        store.teach(plain)
        store.hold(3, 0, 4096)
        store.release([3])
    assert len(store) == 0


@pytest.mark.slow
@pytest.mark.native
def test_a_known_block_takes_little_memory() -> None:
    store = Store(1, 1 << 20, 1 << 20)
    filled(store, 400, 500)
    statistics = store.statistics()
    assert statistics["bytes"] / statistics["known"] < 42
