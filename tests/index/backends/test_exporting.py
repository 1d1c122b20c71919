"""What one index holds, told to another of any kind: `export` and `load`."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kvatlas.index._native import content_of, sections_of
from kvatlas.index.block_index import BlockIndex
from kvatlas.index.errors import DumpError
from tests.index.backends.conftest import BACKENDS
from tests.index.backends.harness import Harness
from tests.index.backends.telling import Keys, add, blocks, enroll, held, remove, runs, tell
from tests.models.table import ADD, CLOSE, Record
from tests.models.world import CPU, GPU, chain

CHAINS = [chain(n, 120 + n) for n in (1, 130, 400)]
FROM_ONE_TO_ANOTHER = [
    *((kind, "five-tables") for kind in BACKENDS),
    *(("five-tables", kind) for kind in BACKENDS if kind != "five-tables"),
    *[(kind, kind) for kind in ("redis", "llmd")],
    *[
        ("redis", "llmd"),
        ("llmd", "table"),
        ("llmd", "redis"),
        ("cluster", "redis-cluster"),
        ("redis-cluster", "cluster"),
    ],
]
"""A content is the same whoever writes it: one takes from all and tells all, and some tell each other."""

between = pytest.mark.parametrize(
    ("harness", "other_harness"), FROM_ONE_TO_ANOTHER, indirect=True, scope="module"
)
told_once = pytest.mark.parametrize("harness", ["five-tables"], indirect=True, scope="module")


def fill(index: BlockIndex, seed: int, lanes: range = range(12)) -> None:
    rnd = random.Random(seed)
    for lane in lanes:
        for keys in rnd.sample(CHAINS, 2):
            tier = rnd.choice([GPU, CPU, GPU | CPU])
            add(index, lane, keys[: rnd.randint(1, len(keys))], tier)


def contents(index: BlockIndex, chains: list[Keys] = CHAINS) -> list[list[dict[int, int]]]:
    return [held(index, keys) for keys in chains]


@pytest.fixture
def fits(harness: Harness, other_harness: Harness) -> None:
    """Skips where blocks whose segments are not known cannot be placed; one test below has the refusal."""
    if not harness.holds_segments and other_harness.needs_segments:
        pytest.skip("its content does not say which segments its blocks lie in")


@between
def test_an_empty_index_is_an_empty_content(index: BlockIndex, other: BlockIndex) -> None:
    add(other, 5, CHAINS[1])
    other.load(index.export())
    assert held(other, CHAINS[1]) == [{5: GPU}] * 130


@between
@pytest.mark.parametrize("seed", range(3))
def test_any_backends_content_is_any_other_backends(
    index: BlockIndex, other: BlockIndex, fits: None, seed: int
) -> None:
    fill(index, seed)
    other.load(index.export())
    assert contents(other) == contents(index)
    enroll(index, *range(12))
    enroll(other, *range(12))
    for keys in CHAINS:
        assert runs(other.match(keys)) == runs(index.match(keys))


@between
def test_lanes_that_the_content_names_are_replaced_and_others_stay(
    index: BlockIndex, other: BlockIndex, fits: None
) -> None:
    old, new = chain(140, 130), chain(200, 131)
    add(other, 1, old)
    add(other, 2, old)
    add(index, 1, new)
    other.load(index.export())
    assert held(other, old) == [{2: GPU}] * 140
    assert held(other, new) == [{1: GPU}] * 200


@between
def test_what_is_loaded_goes_on_as_what_was_told(index: BlockIndex, other: BlockIndex, fits: None) -> None:
    """Segments and their shards are known there: blocks that are loaded can be removed."""
    keys = CHAINS[2]
    add(index, 3, keys)
    other.load(index.export())
    enroll(other, 3)
    remove(other, 3, keys, first=300)
    assert runs(other.match(keys)) == {3: 300}
    other.remove_lane(3)
    assert held(other, keys) == [{}] * len(keys)


@between
def test_a_content_says_which_lanes_are_closed(
    index: BlockIndex, harness: Harness, other: BlockIndex, other_harness: Harness
) -> None:
    if not (harness.keeps_closedness and other_harness.keeps_closedness):
        pytest.skip("it is not kept there")
    keys = CHAINS[2]
    for one in (index, other):
        enroll(one, 0)
    add(index, 0, keys)
    tell(index, Record(CLOSE, 0, 0))
    other.load(index.export())
    assert runs(other.match(keys)) == {0: 400}
    views = [content_of(section) for section in other.export()]
    assert all(view.closed == view.lanes for view in views)
    assert any(view.lanes == [0] for view in views)


@pytest.mark.slow
@pytest.mark.parametrize("other_harness", ["table"], indirect=True, scope="module")
def test_an_export_goes_on_while_the_index_is_written(
    index: BlockIndex, harness: Harness, other: BlockIndex
) -> None:
    """One lane grows block by block: what is exported of it is a leading run, where of one instant."""
    keys = chain(2_000, 132)
    begun, enough = threading.Event(), threading.Event()

    def grow() -> None:
        try:
            for end in range(1, len(keys) + 1):
                place = (end - 1) // 128 * 128
                tell(index, Record(ADD, 0, GPU, (int(keys[end - 1]),), int(keys[place])))
                begun.set()
                if enough.is_set():
                    return
        finally:
            begun.set()

    with ThreadPoolExecutor(1) as threads:
        growing = threads.submit(grow)
        begun.wait()
        taken = [list(index.export()) for _ in range(5)]
        enough.set()
        growing.result()
    lengths = []
    for content in taken:
        other.load(content)
        found = [0 in holders for holders in held(other, keys)]
        lengths.append(sum(found))
        if harness.exports_instants:
            assert found == [True] * sum(found) + [False] * (len(keys) - sum(found))
    assert lengths == sorted(lengths), "a later one has all that an earlier one has"


def test_blocks_whose_segments_are_not_known_are_refused_where_they_cannot_be_placed(
    other: BlockIndex, other_harness: Harness
) -> None:
    sets, no_tags = np.zeros(3, np.uint32), None
    content = sections_of(
        [4], CHAINS[1][:3], no_tags, sets, np.ones(1, np.uint32), np.array([4 << 8 | GPU], np.uint32)
    )
    if other_harness.needs_segments:
        with pytest.raises(DumpError):
            other.load(content)
        assert held(other, CHAINS[1][:3]) == [{}] * 3
    else:
        other.load(content)
        assert held(other, CHAINS[1][:3]) == [{4: GPU}] * 3


def test_loading_again_changes_nothing(index: BlockIndex) -> None:
    fill(index, 9)
    before = contents(index)
    index.load(list(index.export()))
    assert contents(index) == before


@told_once
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"kvax" + content[4:],
        lambda content: content[:-1],
        lambda content: content[:30],
        lambda content: content + b"\0",
        lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
        lambda content: content[:4] + b"\xff\xff" + content[6:],
    ],
    ids=["nothing", "foreign", "cut", "head", "longer", "flipped", "version"],
)
def test_what_is_no_content_changes_nothing(index: BlockIndex, other: BlockIndex, damage: object) -> None:
    tell(index, *blocks(ADD, 0, CHAINS[1]))
    add(other, 0, CHAINS[2])
    content = next(iter(index.export()))
    with pytest.raises(DumpError):
        other.load([damage(content)])  # type: ignore[operator]
    assert contents(other) == [[{}], [{}] * 130, [{0: GPU}] * 400]
