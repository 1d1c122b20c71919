"""A mirror written down while events go on, and read back: that of the moment, and its equal from then on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvatlas.index.errors import CheckpointError, InputError
from kvatlas.index.keys import Algorithm, keyspace
from kvatlas.ingest._native import Decoder, Mirror, Snapshot
from kvatlas.ingest.wire.events import BlockStored
from tests.ingest.mirror_beside_model import MirrorBesideModel, algorithms, announced, worlds
from tests.models import announcements as say
from tests.models.payloads import packed
from tests.profiles import examples

COUNTED_IN_MEMORY = ("bytes",)


def content_of(mirror: Mirror) -> set[tuple[Any, ...]]:
    """All that the deltas for two shards say, in whatever order they come."""
    said: set[tuple[Any, ...]] = set()
    for shard, buffer in enumerate(mirror.content(2)):
        at = 0
        while at < len(buffer):
            op, tiers = buffer[at], buffer[at + 1]
            count = int.from_bytes(buffer[at + 4 : at + 8], "little")
            lane = int.from_bytes(buffer[at + 8 : at + 12], "little")
            segment = buffer[at + 16 : at + 24]
            keys = buffer[at + 24 : at + 24 + 8 * count]
            said |= {(shard, op, tiers, lane, segment, keys[i : i + 8]) for i in range(0, len(keys), 8)}
            if count == 0:
                said.add((shard, op, lane))
            at += 24 + 8 * count
    return said


def state_of(mirror: Mirror) -> dict[str, Any]:
    """Everything that can be asked of a mirror."""
    sizes = mirror.sizes()
    for name in COUNTED_IN_MEMORY:
        del sizes[name]
    return {
        "residency": mirror.residency(),
        "claims": mirror.claims(),
        "claims_changed": mirror.claims_changed,
        "sizes": sizes,
        "content": content_of(mirror),
    }


class SnapshotsOfAMirror(RuleBasedStateMachine):
    """At random moments one is begun; its parts are taken while events come; then a twin lives on beside."""

    @initialize(world=worlds, algorithm=algorithms)
    def start(self, world: say.World, algorithm: Algorithm) -> None:
        self.beside = MirrorBesideModel(world, algorithm)
        self.snapshot: Snapshot | None = None
        self.parts: list[bytes] = []
        self.then: dict[str, Any] = {}
        self.twins: list[Mirror] = []
        self.ended = False

    @rule(batch=st.lists(announced, min_size=1, max_size=3))
    def announce(self, batch: list[say.Announcement]) -> None:
        self.beside.tell(batch, *self.twins)

    @rule(run=say.runs, cut=st.integers(1, 5), gone=st.booleans(), head=st.booleans())
    def store_out_of_order(self, run: say.Run, cut: int, gone: bool, head: bool) -> None:
        self.beside.tell([say.Dense(replace(run, start=cut), group=0, twice=False)], *self.twins)
        if gone:
            self.beside.tell([say.Removed(replace(run, start=cut), 0, None, None)], *self.twins)
        if head:
            self.beside.tell(
                [say.Dense(replace(run, start=0, length=cut), group=0, twice=False)], *self.twins
            )

    @precondition(lambda self: self.snapshot is None)
    @rule()
    def begin(self) -> None:
        self.snapshot = self.beside.mirror.begin_snapshot()
        self.parts, self.ended = [], False
        self.then = state_of(self.beside.mirror)

    @precondition(lambda self: self.snapshot is not None)
    @rule()
    def take_a_part(self) -> None:
        assert self.snapshot is not None
        if self.ended:
            with pytest.raises(CheckpointError, match="a clear, a doubt or a restart"):
                self.snapshot.part()
            self.snapshot = None
            return
        part = self.snapshot.part(1)
        if part is not None:
            self.parts.append(part)
            return
        self.snapshot = None
        twin = self.beside.new_mirror()
        twin.restore(self.parts)
        then = state_of(twin)
        assert then == self.then

    @precondition(lambda self: self.snapshot is None and len(self.twins) < 2)
    @rule()
    def copy(self) -> None:
        """From now on the copy is told the same."""
        twin = self.beside.new_mirror()
        twin.restore(written(self.beside.mirror))
        self.twins.append(twin)

    @rule()
    def doubt(self) -> None:
        self.beside.doubt(*self.twins)
        self.ended = True

    @precondition(lambda self: len(self.beside.naive.copies) > 5 and self.beside.world.limits.ghosts > 100)
    @rule()
    def clear(self) -> None:
        self.beside.tell([say.Cleared(0)], *self.twins)
        self.ended = True

    @precondition(lambda self: len(self.beside.naive.copies) > 8)
    @rule()
    def restart(self) -> None:
        self.beside.restart(*self.twins)
        self.ended = True

    @invariant()
    def a_copy_stays_equal(self) -> None:
        if self.twins:
            state = state_of(self.beside.mirror)
            assert all(state_of(twin) == state for twin in self.twins)
            self.beside.check()


TestSnapshotsOfAMirror = pytest.mark.slow(pytest.mark.native(SnapshotsOfAMirror.TestCase))
TestSnapshotsOfAMirror.settings = settings(max_examples=examples(300), stateful_step_count=30)


def written(mirror: Mirror, bytes_max: int = 1 << 20) -> list[bytes]:
    snapshot = mirror.begin_snapshot()
    return list(iter(lambda: snapshot.part(bytes_max), None))


def filled(blocks: int, size: int = 4, index_size: int = 4) -> Mirror:
    """One chain of so many blocks of `size` tokens, where the index has `index_size`."""
    mirror = empty(index_size)
    salted = (("s1",), *[None] * (blocks - 1))
    stored = BlockStored(
        block_hashes=tuple(range(1, blocks + 1)),
        parent_block_hash=None,
        token_ids=tuple(range(blocks * size)),
        block_size=size,
        extra_keys=salted,
    )
    decoder = Decoder()
    decoder.decode(packed([stored]))
    mirror.gather(decoder)
    return mirror


def empty(index_size: int = 4) -> Mirror:
    mirror = Mirror(keyspace("m", index_size, hash_seed="seed"), 3)
    mirror.set_lane(0, 0)
    return mirror


@pytest.mark.slow
@pytest.mark.parametrize(("size", "index_size"), [(4, 4), (8, 4), (3, 4), (6, 4), (2, 4), (512, 1)])
def test_every_shape_of_blocks_comes_back(size: int, index_size: int) -> None:
    mirror = filled(300, size, index_size)
    twin = empty(index_size)
    twin.restore(written(mirror))
    assert state_of(twin) == state_of(mirror)
    assert mirror.sizes()["held_gpu"] == 300


def test_a_plain_block_takes_at_most_48_bytes() -> None:
    parts = written(filled(10_000))
    assert sum(map(len, parts)) <= 48 * 10_000


def test_parts_have_about_the_size_asked_for() -> None:
    mirror = filled(10_000)
    parts = written(mirror, 100_000)
    assert len(parts) > 3
    assert all(len(part) < 100_000 + 48 * 1024 for part in parts)


def test_a_second_snapshot_waits_for_the_first_to_end_or_be_dropped() -> None:
    mirror = filled(10)
    snapshot = mirror.begin_snapshot()
    with pytest.raises(CheckpointError, match="expected no other snapshot"):
        mirror.begin_snapshot()
    del snapshot
    again = mirror.begin_snapshot()
    while again.part() is not None:
        pass
    assert again.part() is None
    assert written(mirror)


def test_a_mirror_with_content_takes_no_other() -> None:
    mirror = filled(10)
    parts = written(mirror)
    with pytest.raises(InputError, match="expected a mirror without content, got 10 blocks"):
        mirror.restore(parts)
    assert mirror.sizes()["nodes"] == 10


@pytest.mark.parametrize(
    ("index_size", "algorithm", "message"),
    [
        (8, "fold64", "the keyspace's block size, got 4"),
        (4, "fnv64a_cbor", "the keyspace's algorithm, got 0"),
    ],
)
def test_another_keyspace_is_refused(index_size: int, algorithm: Algorithm, message: str) -> None:
    mirror = Mirror(keyspace("m", index_size, algorithm, "seed"))
    mirror.set_lane(0, 0)
    with pytest.raises(CheckpointError, match=message):
        mirror.restore(written(filled(10)))


def test_content_of_a_group_without_a_lane_is_refused() -> None:
    mirror = Mirror(keyspace("m", 4, hash_seed="seed"))
    with pytest.raises(CheckpointError, match="a lane of group 0"):
        mirror.restore(written(filled(10)))
    assert mirror.sizes()["nodes"] == 0


def test_a_part_that_is_missing_or_twice_is_refused() -> None:
    parts = written(filled(10_000), 100_000)
    for wrong in (parts[:-1], [*parts, parts[-1]], parts[1:], [], [parts[0], parts[0]]):
        mirror = empty()
        with pytest.raises(CheckpointError):
            mirror.restore(wrong)
        assert state_of(mirror) == state_of(empty())
