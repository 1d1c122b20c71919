"""A dump on its way in: one at a time, within bounds, and not for ever."""

from __future__ import annotations

import pytest

from kvatlas.actors.moving.incoming_dump import SILENT_S_MAX, IncomingDump
from kvatlas.index._native import content_of
from kvatlas.index.errors import DumpError, InputError
from kvatlas.index.shards import ShardedIndex
from tests.index.dumps.worlds import added, apply_all


def section(n_lanes: int = 1) -> bytes:
    index = ShardedIndex(1)
    apply_all(index, [added(lane, 1) for lane in range(n_lanes)])
    [record] = index.export()
    return record


SECTION = section()


def test_what_came_is_taken_once() -> None:
    incoming = IncomingDump()
    number = incoming.begin()
    for _ in range(3):
        incoming.put(number, SECTION)
    assert incoming.take(number) == [SECTION] * 3
    with pytest.raises(InputError, match="given up meanwhile"):
        incoming.take(number)


def test_another_one_takes_the_place_of_the_one_before() -> None:
    incoming = IncomingDump()
    before = incoming.begin()
    incoming.put(before, SECTION)
    number = incoming.begin()
    for refused in (lambda: incoming.put(before, SECTION), lambda: incoming.take(before)):
        with pytest.raises(InputError, match="another one came"):
            refused()
    assert not incoming.abandon(before), "another one comes"
    assert incoming.take(number) == []
    assert incoming.abandon(number)


def test_what_is_no_section_is_refused_and_the_others_stay() -> None:
    incoming = IncomingDump()
    number = incoming.begin()
    incoming.put(number, SECTION)
    with pytest.raises(DumpError):
        incoming.put(number, SECTION[:-1])
    assert incoming.take(number) == [SECTION]


def test_more_bytes_or_pairs_than_are_bearable_are_refused_and_forgotten() -> None:
    """A set of many lanes takes little in a section, and much on its way to the shards."""
    wide = section(100)
    assert content_of(wide).pairs == 12_800 and len(wide) < 4_000
    for incoming, what in (
        (IncomingDump(bytes_max=len(wide)), "bytes of sections"),
        (IncomingDump(pairs_max=12_800), "pairs of a block and a lane"),
    ):
        number = incoming.begin()
        incoming.put(number, wide)
        with pytest.raises(InputError, match=what):
            incoming.put(number, wide)
        with pytest.raises(InputError, match="given up"):
            incoming.put(number, SECTION)


def test_one_whose_loader_is_gone_is_forgotten() -> None:
    now_s = 0.0
    incoming = IncomingDump(clock_s=lambda: now_s)
    assert not incoming.expire()
    number = incoming.begin()
    now_s = SILENT_S_MAX
    incoming.put(number, SECTION)
    now_s += SILENT_S_MAX
    assert not incoming.expire()
    now_s += 1.0
    assert incoming.expire()
    assert not incoming.expire()
    with pytest.raises(InputError, match="given up"):
        incoming.put(number, SECTION)
