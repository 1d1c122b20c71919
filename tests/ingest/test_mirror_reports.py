"""A worker with several groups: which comes first in a batch, and what tells a true copy from a report."""

from __future__ import annotations

from typing import Any

import pytest

from kvatlas.index.keys import keyspace
from kvatlas.ingest._native import Decoder, Mirror, checksum
from kvatlas.ingest.wire.events import AllBlocksCleared, BlockRemoved, BlockStored
from tests.models.announcements import store_of
from tests.models.content import Chain
from tests.models.payloads import Event, packed

CHAIN = Chain("plain", (0, 1, 0, 2), 4)
NAMES = tuple(CHAIN.key(i) for i in range(4))
WINDOW, FULL = 0, 1
"""Groups, numbered as the servers of such models do."""


def new_mirror() -> Mirror:
    mirror = Mirror(keyspace("m", 4, hash_seed="seed"))
    mirror.set_lane(WINDOW, 0, False)
    mirror.set_lane(FULL, 1)
    return mirror


def say(mirror: Mirror, *events: Event) -> None:
    decoder = Decoder()
    decoder.decode(packed(events))
    mirror.gather(decoder)


def full(begin: int = 0, end: int = 4) -> BlockStored:
    return store_of(CHAIN, begin, end, group_idx=FULL)


def window(*names: int, begin: int = 0, end: int = 4) -> BlockStored:
    kind: dict[str, Any] = {"kv_cache_spec_kind": "sliding_window", "kv_cache_spec_sliding_window": 5}
    return store_of(CHAIN, begin, end, group_idx=WINDOW, block_hashes=names, extra_keys=None, **kind)


def held(mirror: Mirror) -> tuple[int, int]:
    """How many blocks the window group and the full group hold."""
    residency = mirror.residency()
    return len(residency.get(WINDOW, {})), len(residency.get(FULL, {}))


def doubts(mirror: Mirror) -> dict[str, int]:
    sizes = ("gpu_copies", "extras_absent", "clears")
    return {name: n for name, n in mirror.claims().items() if n and name not in sizes}


@pytest.mark.parametrize("together", [True, False])
def test_a_window_group_may_name_its_blocks_before_the_full_one(together: bool) -> None:
    mirror = new_mirror()
    if together:
        say(mirror, window(*NAMES[2:]), full())
    else:
        say(mirror, window(*NAMES[2:]))
        assert held(mirror) == (0, 0)
        assert doubts(mirror) == {"unindexed_held": 2}
        say(mirror, full())
    assert held(mirror) == (2, 4)
    assert doubts(mirror) == {}
    assert mirror.counts()["unresolved"] == 0


def test_a_block_removed_before_its_place_is_known_is_not_held() -> None:
    mirror = new_mirror()
    say(mirror, window(*NAMES[2:]), BlockRemoved(block_hashes=NAMES[3:], group_idx=WINDOW), full())
    assert held(mirror) == (1, 4)
    assert doubts(mirror) == {}


def test_a_chain_behind_a_block_without_a_place_waits_for_it() -> None:
    mirror = new_mirror()
    say(mirror, window(NAMES[1], end=2), full(2, 4))
    assert doubts(mirror) == {"unindexed_held": 1, "orphans_waiting": 2}
    say(mirror, full(0, 2))
    assert held(mirror) == (1, 4)
    assert doubts(mirror) == {}


def test_a_whole_chain_computed_again_since_its_window_was_gone_is_a_true_copy() -> None:
    mirror = new_mirror()
    for _ in range(2):
        say(mirror, window(*NAMES[2:]), full())
        say(mirror, *[BlockRemoved(block_hashes=(name,), group_idx=WINDOW) for name in NAMES[2:]])
    assert mirror.claims()["gpu_copies"] == 8
    for name in NAMES:
        say(mirror, BlockRemoved(block_hashes=(name,), group_idx=FULL))
    assert held(mirror) == (0, 4)
    assert doubts(mirror) == {}


def test_a_report_names_absent_blocks_of_the_window_and_adds_nothing() -> None:
    mirror = new_mirror()
    say(mirror, window(*NAMES[2:]), full())
    say(mirror, window(*NAMES), full())
    assert held(mirror) == (2, 4)
    assert mirror.claims()["gpu_copies"] == 6
    assert doubts(mirror) == {"maybe_gpu": 2}


def test_a_report_of_a_block_that_waits_for_its_parent_is_no_second_copy() -> None:
    mirror = new_mirror()
    mirror.doubt()
    say(mirror, full(1, 4))
    say(mirror, full(0, 2))
    assert held(mirror) == (0, 4)
    for name in NAMES[:0:-1]:
        say(mirror, BlockRemoved(block_hashes=(name,), group_idx=FULL))
    assert held(mirror) == (0, 1)
    assert doubts(mirror) == {"maybe_gpu": 1}


def test_a_block_of_two_chunks_in_cpu_memory_may_be_there_when_one_is_gone() -> None:
    mirror = new_mirror()
    say(mirror, full(), AllBlocksCleared(), full())
    chunk = store_of(CHAIN, 0, 1, group_idx=FULL, medium="CPU", extra_keys=None)
    gone = BlockRemoved(block_hashes=NAMES[:1], group_idx=FULL, medium="CPU")
    say(mirror, chunk, gone)
    assert mirror.claims()["maybe_cpu"] == 0
    say(mirror, chunk, chunk, gone)
    assert mirror.sizes()["held_cpu"] == 0
    assert mirror.claims()["maybe_cpu"] == 1
    say(mirror, gone)
    assert mirror.claims()["maybe_cpu"] == 1


def test_a_change_of_what_is_claimed_is_seen_without_reading_the_claims() -> None:
    mirror = new_mirror()
    seen = [mirror.claims_changed]
    say(mirror, full())
    assert mirror.claims_changed == seen[0]
    mirror.doubt()
    seen.append(mirror.claims_changed)
    say(mirror, AllBlocksCleared())
    seen.append(mirror.claims_changed)
    say(mirror, AllBlocksCleared())
    seen.append(mirror.claims_changed)
    assert len(set(seen)) == 4


def test_what_nobody_touches_stays_stale_over_many_doubts() -> None:
    """An epoch has few bits in a node; a number that comes again must not make the node sound."""
    mirror = new_mirror()
    say(mirror, full())
    for _ in range(100):
        mirror.doubt()
        assert mirror.claims()["stale"] == 4
    say(mirror, full())
    assert doubts(mirror) == {}
    say(mirror, BlockRemoved(block_hashes=NAMES[3:], group_idx=FULL))
    assert doubts(mirror) == {"maybe_gpu": 1}
    assert held(mirror) == (0, 3)


def test_the_checksum_tells_payloads_apart_by_content_length_and_order() -> None:
    payloads = [b"", b"\0", b"\0\0", *(bytes(range(n)) for n in (1, 8, 31, 32, 33, 64, 200))]
    payloads += [bytes(200), bytes(199) + b"\1", b"\1" + bytes(199), bytes(range(199, -1, -1))]
    assert len({checksum(payload) for payload in payloads}) == len(set(payloads))
    decoder = Decoder()
    decoder.decode(packed([full()]))
    assert decoder.checksum == checksum(packed([full()]))
