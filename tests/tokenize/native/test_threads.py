"""Threads that share one memo, and the GIL; the thread sanitizer runs this too."""

from __future__ import annotations

import random
import sys
import threading

import numpy as np
import numpy.typing as npt
import pytest

from kvatlas.tokenize._native import NO_LINES, Cutter, SegmentMemo

pytestmark = pytest.mark.native

CUTTER = Cutter([("|", 1)], NO_LINES, 1)


def encode(piece: str, generation: int) -> npt.NDArray[np.uint32]:
    return np.full(1 + len(piece) % 7, generation << 24 | len(piece), np.uint32)


def test_threads_that_fill_find_drop_and_clear_at_once_always_get_the_right_ids() -> None:
    """Texts are long enough to be planned without the GIL; the bound is small, so that pieces are dropped."""
    memo = SegmentMemo(4 << 20, 1)
    pieces = [f"{i} " + "x" * (i % 3000) for i in range(3000)]
    wrong: list[object] = []
    done = threading.Event()

    def ask(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(25):
            chosen = rng.choices(pieces, k=300)
            plan = memo.plan(CUTTER, "|".join(chosen))
            ids = plan.ids([encode(piece, 0) for piece in plan.missing()])
            expected = [np.append(encode(piece, 0), np.uint32(1)) for piece in chosen]
            if not np.array_equal(ids, np.concatenate(expected)[:-1]):
                wrong.append(chosen)

    def clear() -> None:
        while not done.wait(0.01):
            memo.clear()

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
    clearer = threading.Thread(target=clear)
    for thread in [*threads, clearer]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    clearer.join()
    assert wrong == []
    now = memo.statistics()
    assert now.hits + now.misses == 3 * 25 * 300
    assert now.hits > 0
    assert now.bytes <= now.bytes_max


def test_no_ids_of_before_a_clear_are_found_after_it() -> None:
    """As at a reload: the ids of a text change, and plans of before are finished at any moment."""
    memo = SegmentMemo(64 << 20, 1)
    text = "|".join(f"{i} " + "x" * 1000 for i in range(300))
    generation = 0
    done = threading.Event()
    n_rounds = [0]

    def ask() -> None:
        while not done.is_set():
            plan = memo.plan(CUTTER, text)
            now = generation  # a clear follows its change: a plan of after the clear reads the new one
            plan.ids([encode(piece, now) for piece in plan.missing()])
            n_rounds[0] += 1

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        for generation in range(1, 20):
            held = memo.plan(CUTTER, text)
            memo.clear()
            held.ids([encode(piece, generation - 1) for piece in held.missing()])
            seen = n_rounds[0]
            while n_rounds[0] < seen + 2:
                done.wait(0.001)
            plan = memo.plan(CUTTER, text)
            ids = plan.ids([encode(piece, generation) for piece in plan.missing()])
            assert set((ids[ids != 1] >> 24).tolist()) <= {generation}
    finally:
        done.set()
        asker.join()


@pytest.mark.slow
def test_plan_of_a_large_text_lets_other_threads_compute() -> None:
    """Threads switch only where one gives the GIL away: who runs while the other plans proves that it did."""
    text = "x|" * (20 << 20)
    memo = SegmentMemo(0, 1)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    try:
        for _ in range(20):
            begun = threading.Event()
            is_planned: list[bool] = []

            def plan(begun: threading.Event = begun, is_planned: list[bool] = is_planned) -> None:
                begun.set()
                memo.plan(CUTTER, text)
                is_planned.append(True)

            thread = threading.Thread(target=plan)
            thread.start()
            begun.wait()
            ran_meanwhile = not is_planned
            thread.join()
            if ran_meanwhile:
                return
    finally:
        sys.setswitchinterval(interval)
    pytest.fail("no other thread ran while a plan was made, in 20 tries")
