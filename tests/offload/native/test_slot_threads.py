"""Threads that share slots and a catalogue; the thread sanitizer runs this too."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import numpy as np
import pytest

from kvatlas.offload._native import Catalogue, Slots, copy_crc32c, crc32c

pytestmark = pytest.mark.native

KEY_BYTES = 20
KEYS = [random.Random(number).randbytes(KEY_BYTES) for number in range(64)]
THREADS, STEPS = 4, 1500


def run(work: Callable[[int], None]) -> None:
    """`work` in THREADS threads that begin together; raises what one of them raised."""
    failed: list[BaseException] = []
    start = threading.Barrier(THREADS)

    def guarded(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def test_a_slot_that_is_pinned_keeps_its_key_whatever_others_do() -> None:
    """Each slot's memory holds the key that was filled in: a pinned one must read back as its key."""
    slots = Slots(16, KEY_BYTES)
    memory = np.zeros((16, KEY_BYTES), np.uint8)

    def work(number: int) -> None:
        rng = random.Random(number)
        for _ in range(STEPS):
            keys = rng.sample(KEYS, 3)
            filled = slots.fill(b"".join(keys))
            if filled is not None:
                taken = {key: slot for key, slot in zip(keys, filled[0], strict=True) if slot >= 0}
                for key, slot in taken.items():
                    memory[slot] = np.frombuffer(key, np.uint8)
                numbers = np.array(list(taken.values()), np.int32)
                (slots.drop if rng.random() < 0.1 else slots.ready)(numbers)
            pinned = slots.pin(b"".join(keys))
            held = [key for key, slot in zip(keys, pinned, strict=True) if slot >= 0]
            for key, slot in zip(keys, pinned, strict=True):
                assert slot < 0 or memory[slot].tobytes() == key
            slots.unpin(b"".join(held))
            if rng.random() < 0.01:
                slots.clear()

    run(work)
    left = slots.statistics()
    assert (left.filling, left.pinned, left.free + left.ready) == (0, 0, 16)


def test_each_question_is_given_out_to_one_thread_only() -> None:
    catalogue = Catalogue(200, KEY_BYTES, 1e9)
    answers: list[bytes] = []

    def work(number: int) -> None:
        rng = random.Random(number)
        for _ in range(STEPS):
            key = rng.choice(KEYS)
            if catalogue.find(key, 0.0) == Catalogue.UNKNOWN:
                catalogue.ask(key)
            packed = catalogue.take_asked(2)
            for at in range(0, len(packed), KEY_BYTES):
                answers.append(packed[at : at + KEY_BYTES])
                catalogue.set(packed[at : at + KEY_BYTES], Catalogue.PRESENT, 0.0)

    run(work)
    assert {catalogue.find(key, 0.0) for key in KEYS} == {Catalogue.PRESENT}
    assert catalogue.statistics().asked == 0
    # A thread may ask between another's answer and its own question: a few keys twice, none lost.
    assert set(answers) == set(KEYS)


def test_checksums_are_computed_in_all_threads_at_once() -> None:
    data = random.Random(1).randbytes(300_000)
    right = crc32c(data, way="table")

    def work(number: int) -> None:
        target = bytearray(len(data))
        for _ in range(20):
            assert crc32c(data) == right == copy_crc32c(target, data)
            assert target == data

    run(work)
