"""Answers that are none: refused, or nobody's; never a crash."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest

from kvatlas.index._native import (
    Excerpt,
    RemoteLanes,
    remote_answer,
    remote_page,
)
from kvatlas.index.errors import DecodeError
from tests.index.remote.compact.records import chain

LANES = RemoteLanes(np.array([1, 10, 2, 20, 3, 30], np.uint32))


def _run(count: int, *elements: int) -> bytes:
    return struct.pack(f"<HI{len(elements)}I", count, 4 * len(elements), *elements)


ANSWER = b"\x02id" + _run(3, 1 << 8 | 1, 2 << 8 | 3) + _run(2) + _run(2, 3 << 8 | 1, 77 << 8 | 1)


def test_an_answer_becomes_an_excerpt_without_dead_lanes() -> None:
    keys = chain(7)
    life, excerpt, n_foreign = remote_answer(ANSWER, 7, LANES)
    assert (life, n_foreign) == (b"id", 0)
    rows = Excerpt([keys], [excerpt]).lookup(keys)
    assert rows == [[(10, 1), (20, 3)]] * 3 + [[]] * 2 + [[(30, 1)]] * 2


@pytest.mark.parametrize("n_keys", [0, 6, 8])
def test_an_answer_to_other_keys_is_refused(n_keys: int) -> None:
    with pytest.raises(DecodeError, match=f"{n_keys} keys, got one to 7"):
        remote_answer(ANSWER, n_keys, LANES)


def test_answers_cut_short_or_with_other_bytes_are_refused_or_sound() -> None:
    keys = chain(7)
    for end in range(len(ANSWER)):
        with pytest.raises(DecodeError):
            remote_answer(ANSWER[:end], 7, LANES)
    rng = random.Random(3)
    for _ in range(3000):
        torn = bytearray(ANSWER)
        for _ in range(rng.randint(1, 4)):
            torn[rng.randrange(len(torn))] = rng.randrange(256)
        try:
            _, excerpt, _ = remote_answer(bytes(torn), 7, LANES)
        except DecodeError:
            continue
        for row in Excerpt([keys], [excerpt]).lookup(keys):
            assert all(lane in (10, 20, 30) and 0 < tiers < 64 for lane, tiers in row)


def test_pages_cut_short_or_with_other_bytes_are_refused_or_sound() -> None:
    value = struct.pack("<2I", 1 << 8 | 1, 2 << 8 | 3)
    entry = struct.pack("<I", 8) + b"k" * 8 + struct.pack("<I", len(value)) + value
    whole = struct.pack("<II", 5, 2) + entry + entry
    keys, tags, sets, counts, elements, n_foreign = remote_page(whole, LANES)
    assert (len(keys), tags.tolist(), sets.tolist(), counts.tolist(), n_foreign) == (
        2,
        [5, 5],
        [0, 0],
        [2],
        0,
    )
    assert elements.tolist() == [10 << 8 | 1, 20 << 8 | 3]
    for end in range(1, len(whole)):
        with pytest.raises(DecodeError):
            remote_page(whole[:end], LANES)
    rng = random.Random(4)
    for _ in range(2000):
        torn = bytearray(whole)
        torn[rng.randrange(len(torn))] = rng.randrange(256)
        try:
            keys, _, sets, counts, elements, _ = remote_page(bytes(torn), LANES)
        except DecodeError:
            continue
        assert counts.sum() == len(elements)
        assert all(number < len(counts) for number in sets)


@pytest.mark.parametrize("pairs", [[0, 1], [1 << 24, 1], [1, 65_535], [1, 2, 1, 3], [1, 2, 3, 2]])
def test_maps_that_are_none_are_refused(pairs: list[int]) -> None:
    with pytest.raises(DecodeError, match="lane map"):
        RemoteLanes(np.array(pairs, np.uint32))
