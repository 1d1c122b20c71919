"""The write half by itself: what it is told, what it says of its workers, and what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvatlas import Atlas, AtlasConfig, InputError, ModelConfig, PodConfig
from kvatlas.index._native import Table
from kvatlas.index.groups import Group
from kvatlas.ingest.fleet_mirror import FleetMirror
from kvatlas.ingest.numbering import LeasedNumbers
from kvatlas.ingest.outlet import GatheringOutlet
from tests.ingest.plain_batches import batch, stored
from tests.ingest.small_fleet import (
    FIRST,
    IN_A_WINDOW,
    SECOND,
    TOKENS,
    TOPIC,
    Clock,
    answer,
    doubts,
    held,
    new_mirror,
    only,
)

# What it is told.


def test_a_smaller_block_size_heard_elsewhere_empties_the_workers_and_asks_again() -> None:
    mirror = new_mirror()
    feed = mirror.feed(has_replay=True)
    feed.receive(TOPIC, 0, FIRST)
    assert (only(mirror).truth.state, mirror.part().block_sizes) == ("EXACT", {"m": 16})
    version = mirror.part_version
    mirror.set_block_size("m", 8)
    assert mirror.part_version > version
    assert mirror.part().block_sizes == {"m": 8}
    assert mirror.residency("m") == {}
    assert "missed" in doubts(mirror)
    answer(feed, FIRST)
    assert only(mirror).truth.state == "EXACT"
    assert len(mirror.residency("m")["a", 0, 0]) == 4
    mirror.ingest(b"kv@b@m", 0, FIRST)
    assert mirror.part().block_sizes == {"m": 8}, "what is larger is no news"


def test_a_block_size_that_is_larger_or_of_a_configured_model_changes_nothing() -> None:
    mirror = new_mirror(AtlasConfig(models={"fixed": ModelConfig(block_size_tokens=32)}))
    mirror.set_block_size("fixed", 16)
    mirror.set_block_size("m", 16)
    version = mirror.part_version
    mirror.set_block_size("m", 16)
    mirror.set_block_size("m", 64)
    assert mirror.part_version == version
    assert mirror.part().block_sizes == {"fixed": 32, "m": 16}


@pytest.mark.parametrize("tokens", [0, -4, 4097])
def test_a_block_size_that_is_none_is_refused(tokens: int) -> None:
    with pytest.raises(InputError, match="block size of 'm': expected 1 to 4096"):
        new_mirror().set_block_size("m", tokens)


def test_what_is_known_of_a_pod_is_its_own_and_ends_with_it() -> None:
    mirror = new_mirror()
    mirror.set_pod("a", PodConfig(model="m", stores=("nfs",), drops_matched_block=True))
    mirror.ingest(b"kv@a", 0, FIRST)
    mirror.ingest(b"kv@b@m", 0, FIRST)
    a, b = mirror.part().workers
    assert (a.model, a.stores, a.drops_matched_block) == ("m", ("nfs",), True)
    assert (b.stores, b.drops_matched_block) == ((), False)
    mirror.set_pod("a", None)
    mirror.remove_pod("a")
    mirror.ingest(TOPIC, 0, FIRST)
    assert mirror.part().workers[-1].stores == ()


def test_what_becomes_known_of_a_pod_counts_for_its_workers_at_once() -> None:
    mirror = new_mirror(AtlasConfig(pods={"a": PodConfig(stores=("old",))}))
    mirror.ingest(TOPIC, 3, FIRST)
    mirror.ingest(TOPIC, 4, batch(stored([1], TOKENS[:16], medium="DISK")))
    assert "missed" in doubts(mirror)
    version = mirror.part_version
    mirror.set_pod("a", PodConfig(stores=("new",), gpu_blocks=2, offload_chunk_blocks=4))
    (worker,) = mirror.part().workers
    assert mirror.part_version > version
    assert (worker.stores, worker.chunk_blocks) == (("m/disk@a", "new"), 4)
    assert "missed" not in doubts(mirror), "as many copies are known as it has blocks"
    mirror.ingest(TOPIC, 5, batch(stored([2], TOKENS[16:32], 1, medium="STORAGE")))
    assert {name for name, blocks in mirror.residency("m").items() if blocks and isinstance(name, str)} == {
        "m/disk@a",
        "new",
    }
    version = mirror.part_version
    mirror.set_pod("a", PodConfig(stores=("new",), gpu_blocks=2, offload_chunk_blocks=4))
    assert mirror.part_version == version


def test_stores_that_find_no_lane_are_attached_when_there_is_one() -> None:
    numbers = LeasedNumbers()
    numbers.lease([(0, 1)], [(0, 1)])
    mirror = FleetMirror(AtlasConfig(), GatheringOutlet(), numbers, hash_seed="s")
    mirror.ingest(TOPIC, 0, FIRST)
    mirror.set_pod("a", PodConfig(stores=("nfs",)))
    assert mirror.part().workers[0].stores == ()
    numbers.lease([(0, 1), (7, 1)], [(0, 1)])
    mirror.numbers_came()
    assert (mirror.part().workers[0].stores, mirror.part().stores) == (("nfs",), {"nfs": 7})


# What it says of its workers.


def test_the_part_names_workers_lanes_and_states() -> None:
    mirror = new_mirror(lanes=(7, 10), workers=(40, 10))
    mirror.ingest(TOPIC, 0, FIRST)
    mirror.ingest(TOPIC, 1, IN_A_WINDOW)
    (worker,) = mirror.part().workers
    assert (worker.number, worker.pod, worker.rank, worker.model) == (40, "a", 0, "m")
    assert worker.groups == (Group(7, block_size_tokens=16), Group(8, 1, 0, 16))  # type: ignore[arg-type]
    assert (worker.state, worker.doubts, worker.lacks_extras) == ("EXACT", (), False)


def test_a_worker_consists_of_nothing_from_its_engines_restart_until_it_names_a_group() -> None:
    mirror = new_mirror(lanes=(7, 10))
    feed = mirror.feed(has_replay=True)
    for seq, payload in enumerate((FIRST, batch(stored([9], TOKENS[:32], block_size=32, group_idx=1)))):
        feed.receive(TOPIC, seq, payload)
    assert "uneven" in doubts(mirror)
    feed.opened()
    (request,) = feed.requests()
    request.handler.began(request.number)
    request.handler.replayed(request.number, TOPIC, request.start, SECOND)  # another engine's batch
    assert mirror.part().workers[0].groups == ()
    assert "uneven" not in doubts(mirror)
    answer(feed, batch({"type": "AllBlocksCleared"}))
    assert mirror.part().workers[0].groups == ()
    feed.receive(TOPIC, 1, FIRST)
    assert [group.lane for group in mirror.part().workers[0].groups] == [7], "its lane is kept"


def test_the_version_rises_with_a_doubt_and_not_with_its_details() -> None:
    mirror = new_mirror()
    mirror.ingest(TOPIC, 0, FIRST)
    version = mirror.part_version
    mirror.ingest(TOPIC, 1, batch(stored([50], TOKENS[:16], 49)))
    assert mirror.part_version > version
    assert "orphans" in doubts(mirror)
    version = mirror.part_version
    mirror.ingest(TOPIC, 2, batch(stored([52], TOKENS[:16], 51)))
    mirror.ingest(TOPIC, 3, SECOND)
    assert mirror.part_version == version
    (worker,) = mirror.part().workers
    assert worker.doubts == ("stores wait for a parent that is not known: 1 (until their parent)",)


def test_stores_of_two_models_that_share_a_name_are_told_apart() -> None:
    config = AtlasConfig(pods={"a": PodConfig(stores=("nfs", "own")), "b": PodConfig(stores=("nfs",))})
    mirror = new_mirror(config)
    mirror.ingest(TOPIC, 0, FIRST)
    mirror.ingest(b"kv@b@n", 0, FIRST)
    part = mirror.part()
    assert set(part.stores) == {"nfs (m)", "nfs (n)", "own"}
    assert len(set(part.stores.values())) == 3
    assert [worker.stores for worker in part.workers] == [("nfs (m)", "own"), ("nfs (n)",)]


def test_files_of_a_store_that_nobody_names_are_counted_and_left_out() -> None:
    """Their removal may be heard by somebody else only."""
    mirror = new_mirror()
    mirror.ingest(TOPIC, 0, FIRST)
    version = mirror.part_version
    on_storage = stored([1, 2], TOKENS[:32], medium="STORAGE")
    mirror.ingest(TOPIC, 1, batch(on_storage))
    mirror.ingest(TOPIC, 2, batch({"type": "BlockRemoved", "block_hashes": [1, 2], "medium": "STORAGE"}))
    assert mirror.statistics().skips["store_not_shared"] == 4
    assert set(mirror.residency("m")) == {("a", 0, 0)}
    assert mirror.part().stores == {}
    assert (only(mirror).truth.state, doubts(mirror)) == ("PARTIAL", {"lost_stored"})
    version = mirror.part_version
    mirror.ingest(TOPIC, 3, batch(on_storage))
    assert mirror.part_version == version


def test_files_of_a_node_and_of_a_store_that_a_pod_names_are_indexed() -> None:
    mirror = new_mirror(AtlasConfig(pods={"a": PodConfig(stores=("m/storage",))}))
    mirror.ingest(TOPIC, 0, FIRST)
    mirror.ingest(TOPIC, 1, batch(stored([1], TOKENS[:16], medium="STORAGE")))
    mirror.ingest(TOPIC, 2, batch(stored([2], TOKENS[:16], medium="DISK")))
    assert {name for name in mirror.residency("m") if isinstance(name, str)} == {"m/storage", "m/disk@a"}
    assert mirror.statistics().skips["store_not_shared"] == 0


def test_a_pod_that_names_no_store_has_no_part_in_one_that_another_names() -> None:
    """The other's subscriber may be another one than this pod's."""
    mirror = new_mirror(AtlasConfig(pods={"a": PodConfig(stores=("m/storage",))}))
    on_storage = batch(stored([1], TOKENS[:16], medium="STORAGE"))
    for topic in (TOPIC, b"kv@b@m"):
        mirror.ingest(topic, 0, FIRST)
        mirror.ingest(topic, 1, on_storage)
    assert mirror.statistics().skips["store_not_shared"] == 1
    assert [worker.stores for worker in mirror.part().workers] == [("m/storage",), ()]


# What it lacks.


def test_without_a_lane_a_batch_is_refused_and_with_one_the_history_is_asked_again() -> None:
    clock = Clock()
    numbers = LeasedNumbers(clock_s=clock)
    numbers.lease([(0, 1)], [(0, 9)])
    mirror = FleetMirror(AtlasConfig(), GatheringOutlet(), numbers, hash_seed="s", clock_s=clock)
    feed = mirror.feed(has_replay=True)
    feed.receive(TOPIC, 0, FIRST)
    with pytest.raises(InputError, match="lanes: expected one of 1 leased to be free, got none"):
        feed.receive(TOPIC, 1, IN_A_WINDOW)
    feed.receive(TOPIC, 2, SECOND)
    assert mirror.statistics().events["refused_payloads"] == 1
    assert only(mirror).truth.state == "DEGRADED"
    assert numbers.lease([(0, 1), (5, 2)], [(0, 9)])
    mirror.numbers_came()
    answer(feed, FIRST, IN_A_WINDOW, SECOND)
    assert (only(mirror).truth.state, only(mirror).groups) == ("EXACT", (0, 1))
    mirror.numbers_came()
    assert feed.requests() == [], "nobody was refused since"


def test_a_worker_without_a_number_comes_to_be_when_there_is_one() -> None:
    numbers = LeasedNumbers()
    numbers.lease([(0, 9)], [(3, 1)])
    mirror = FleetMirror(AtlasConfig(), GatheringOutlet(), numbers, hash_seed="s")
    mirror.ingest(b"kv@other@m", 0, FIRST)
    feed = mirror.feed(has_replay=True)
    with pytest.raises(InputError, match="workers: expected one of 1 leased"):
        feed.receive(TOPIC, 0, FIRST)
    assert [worker.pod for worker in mirror.part().workers] == ["other"]
    numbers.lease([(0, 9)], [(3, 1), (8, 1)])
    feed.receive(TOPIC, 1, SECOND)
    answer(feed, FIRST, SECOND)
    assert [(w.number, w.state) for w in mirror.part().workers if w.pod == "a"] == [(8, "EXACT")]


def test_a_worker_that_cannot_have_its_stores_lanes_takes_no_number() -> None:
    numbers = LeasedNumbers()
    numbers.lease([(0, 1)], [(0, 1)])
    config = AtlasConfig(pods={"a": PodConfig(stores=("one", "two"))})
    mirror = FleetMirror(config, GatheringOutlet(), numbers, hash_seed="s")
    for _ in range(3):
        with pytest.raises(InputError, match="lanes"):
            mirror.ingest(TOPIC, 0, FIRST)
    assert numbers.workers_free == 1
    assert mirror.part().workers == ()


def test_lanes_and_numbers_of_a_pod_that_left_rest_before_they_are_anothers() -> None:
    clock = Clock()
    mirror = new_mirror(lanes=(0, 2), workers=(0, 2), clock=clock)
    mirror.ingest(TOPIC, 0, FIRST)
    mirror.remove_pod("a")
    mirror.ingest(b"kv@b@m", 0, FIRST)
    assert [(w.number, w.groups[0].lane) for w in mirror.part().workers] == [(1, 1)]
    with pytest.raises(InputError, match="workers"):
        mirror.ingest(b"kv@c@m", 0, FIRST)
    clock.now_s += 61
    mirror.ingest(b"kv@c@m", 0, FIRST)
    assert [(w.number, w.groups[0].lane) for w in mirror.part().workers] == [(1, 1), (0, 0)]


# From before.


def test_workers_from_a_checkpoint_are_unheard_until_they_are_confirmed(tmp_path: Path) -> None:
    before = new_mirror()
    before.ingest(TOPIC, 0, FIRST)
    assert before.unheard() == []
    before.save(tmp_path)
    clock = Clock()
    after = new_mirror(lanes=(50, 10), clock=clock)
    assert after.load(tmp_path).errors == ()
    assert after.unheard() == [("a", 0)]
    table = Table(1 << 22)
    for piece in after.take():
        table.apply(piece)
    assert held(table, after) == [[(50, 1)], [(50, 1)]]
    feed = after.feed(has_replay=True)
    feed.receive(TOPIC, 1, SECOND)
    answer(feed, FIRST, SECOND)
    assert (after.unheard(), doubts(after)) == ([("a", 0)], {"joining"}), "to be asked again in a moment"
    clock.now_s += 0.3
    feed.tick()
    answer(feed, FIRST, SECOND)
    assert (after.unheard(), only(after).truth.state) == ([], "EXACT")


def test_a_store_that_nobody_names_is_left_out_of_a_checkpoint_that_has_it(tmp_path: Path) -> None:
    atlas = Atlas(AtlasConfig(hash_seed="s"))
    atlas.ingest(TOPIC, 0, FIRST)
    atlas.ingest(TOPIC, 1, batch(stored([1], TOKENS[:16], medium="STORAGE")))
    atlas.save(tmp_path)
    atlas.close()
    mirror = new_mirror()
    report = mirror.load(tmp_path)
    assert report.files == 1
    assert "m/storage" in report.errors[0]
    assert set(mirror.residency("m")) == {("a", 0, 0)}
    assert mirror.part().stores == {}


def test_a_worker_from_a_checkpoint_that_first_speaks_in_smaller_blocks_is_asked_again(
    tmp_path: Path,
) -> None:
    before = new_mirror()
    before.ingest(TOPIC, 0, FIRST)
    before.save(tmp_path)
    after = new_mirror()
    after.load(tmp_path)
    after.ingest(TOPIC, 1, batch(stored([9], TOKENS[:8], block_size=8)))
    assert after.part().block_sizes == {"m": 8}
    assert "missed" in doubts(after)
