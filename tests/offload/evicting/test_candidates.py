"""The oldest files out of many, beside a plain sort."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.offload.evicting.candidates import Candidates
from kvatlas.offload.evicting.crawler import Listing, Part
from tests.offload.capacity.stores_at_hand import key_of

PARTS = (Part("a", "all", "/a/all"), Part("b", "r0", "/b/r0"))


def listing(part: Part, files: list[tuple[bytes, int, int]]) -> Listing:
    return Listing(part, "000", [f[0] for f in files], [f[1] for f in files], [f[2] for f in files], [], 0)


@given(
    st.lists(st.lists(st.integers(0, 10_000), max_size=30), max_size=20),
    st.integers(1, 20),
    st.booleans(),
)
def test_those_kept_are_the_oldest_or_newest_of_all(
    ages: list[list[int]], files_max: int, newest: bool
) -> None:
    candidates, shown = Candidates(files_max, newest=newest), []
    for number, last_uses in enumerate(ages):
        files = [(key_of(number * 100 + at, at % 3), at + 1, last) for at, last in enumerate(last_uses)]
        part = PARTS[number % 2]
        candidates.add(listing(part, files))
        shown += [(part, *one) for one in files]
    kept = list(candidates.in_order())
    sign = -1 if newest else 1
    expected = sorted((sign * last for _, _, _, last in shown))[:files_max]
    assert [sign * one.last_use_ns for one in kept] == expected
    assert {(one.part, one.key, one.n_bytes, one.last_use_ns) for one in kept} <= set(shown)
    assert len({(one.part, one.key) for one in kept}) == len(kept)
    assert candidates.left_out == len(shown) - len(kept)


@pytest.mark.parametrize("key", [b"\0" * 5, bytes(68), b"ab\0\0\0", key_of(1)])
def test_keys_come_back_with_their_zeros(key: bytes) -> None:
    candidates = Candidates(4)
    candidates.add(listing(PARTS[0], [(key, 7, 9)]))
    assert [(one.key, one.n_bytes, one.last_use_ns) for one in candidates.in_order()] == [(key, 7, 9)]
