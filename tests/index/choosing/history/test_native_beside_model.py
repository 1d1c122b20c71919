"""The tree of what workers were sent says what dicts say, after any calls."""

from __future__ import annotations

import random
import time

import numpy as np
import numpy.typing as npt
import pytest

from kvatlas.index._native import History
from tests.models.history import HistoryModel

pytestmark = pytest.mark.native

SLOTS = 5


def key_of(path: tuple[int, ...]) -> int:
    """A chained key: equal ones have equal paths."""
    return hash(("history", path)) & (2**64 - 1)


def chain(path: tuple[int, ...]) -> list[int]:
    return [key_of(path[: end + 1]) for end in range(len(path))]


def array(keys: list[int]) -> npt.NDArray[np.uint64]:
    return np.array(keys, np.uint64)


class Pair:
    """Native and model, told and asked the same."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        blocks_max = rng.choice([0, 1, 7, 40, 60])
        self.native, self.model = History(blocks_max), HistoryModel(blocks_max)
        self.now_s = 0.0
        self.noted: list[tuple[int, list[int], int]] = []
        self.lasts_s = rng.choice([None, 3.0])
        """None: each note for another time."""

    def path(self) -> tuple[int, ...]:
        """Of few branches, so that chains share much and part anywhere."""
        rng = self.rng
        return tuple(rng.choice([0, 0, 0, 0, 1]) for _ in range(rng.randint(0, 14)))

    def step(self) -> None:
        rng = self.rng
        self.now_s += rng.choice([0, 0, 0.1, 1])
        kind = rng.choices(["note", "drop", "set_limit", "forget"], [30, 6, 1, 1])[0]
        slot = rng.randrange(SLOTS)
        if kind == "note":
            keys = chain(self.path())
            until_s = self.now_s + (rng.choice([-1, 0, 2, 9, float("inf")]) if self.lasts_s is None else 3.0)
            number = self.native.note(slot, array(keys), self.now_s, until_s)
            assert number == self.model.note(slot, keys, self.now_s, until_s)
            self.noted.append((slot, keys, number))
        elif kind == "drop" and self.noted:
            slot, keys, number = rng.choice(self.noted[-6:])
            self.native.drop(slot, array(keys), number)
            self.model.drop(slot, keys, number)
        elif kind == "set_limit":
            blocks = rng.randint(0, 20)
            self.native.set_limit(slot, blocks)
            self.model.set_limit(slot, blocks)
        elif kind == "forget":
            self.native.forget(slot)
            self.model.forget(slot)

    def check(self) -> None:
        keys = chain(self.path())
        slots = self.rng.sample(range(SLOTS + 2), SLOTS)
        expected = self.model.hints(keys, slots, self.now_s, 16)
        found = self.native.hints(array(keys), np.array(slots, np.uint32), self.now_s, 16)
        assert (None if found is None else found.tolist()) == expected
        assert self.native.statistics()["blocks"] == self.model.blocks
        assert self.native.statistics()["refused_notes"] == 0


@pytest.mark.parametrize("seed", range(20))
def test_after_any_calls_native_and_model_say_the_same(seed: int) -> None:
    pair = Pair(random.Random(seed))
    for _ in range(150):
        pair.step()
        pair.check()


@pytest.mark.fuzz
def test_after_any_calls_for_long_native_and_model_say_the_same(fuzz_seconds: float) -> None:
    end, seed = time.monotonic() + fuzz_seconds, 1000
    while time.monotonic() < end:
        pair = Pair(random.Random(seed))
        for _ in range(400):
            pair.step()
            pair.check()
        seed += 1


@pytest.mark.parametrize("seed", range(5))
def test_keys_that_are_no_chain_harm_nothing(seed: int) -> None:
    """Whoever passes such keys gets hints that mean nothing, and no more than that."""
    rng = random.Random(seed)
    history = History(50)
    slots = np.arange(4, dtype=np.uint32)
    for step in range(2000):
        keys = array([rng.randrange(6) for _ in range(rng.randint(0, 9))])
        number = history.note(rng.randrange(4), keys, step * 0.1, step * 0.1 + rng.choice([1, 5, 50]))
        if rng.random() < 0.2:
            history.drop(rng.randrange(4), keys, number)
        history.hints(keys, slots, step * 0.1)
        assert history.statistics()["blocks"] <= 50
    assert history.statistics()["refused_notes"] > 0
    for slot in range(4):
        history.forget(slot)
    assert history.statistics()["blocks"] == history.statistics()["nodes"] == 0
