"""What the directory tells shards, subscribers and readers, and what it remembers when it is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvatlas.actors.directory.keeping import FileKeeper
from kvatlas.actors.directory.layouts import Slot
from kvatlas.actors.orders import ClusterView, Lease
from kvatlas.index.errors import InputError
from kvatlas.index.view import FleetPart
from tests.actors.directory.directory_rig import NODES, DirectoryRig, Process, Shard, part_of


@pytest.fixture
def rig(tmp_path: Path) -> DirectoryRig:
    return DirectoryRig(tmp_path)


def incarnations(shards: list[Shard]) -> tuple[int, ...]:
    return tuple(shard.incarnation for shard in shards)


def whole(view: ClusterView) -> list[bool]:
    return [replica.whole for replica in view.serving.replicas]


def test_a_new_cluster_serves_as_soon_as_its_shards_are_up(rig: DirectoryRig) -> None:
    assert not rig.service.is_ready and rig.service.view().serving.number == 1
    shards = rig.shards()
    assert rig.service.is_ready
    assert incarnations(shards) == (1, 2)
    assert [replica.incarnation for replica in rig.service.view().serving.replicas] == [1, 2]


def test_a_shard_is_whole_when_all_sessions_have_loaded_it(rig: DirectoryRig) -> None:
    shards = rig.shards()
    rig.follow("a")
    process = Process(rig, "0")
    process.report(part_of("a"))
    assert whole(rig.service.view()) == [False, False]
    process.report(loaded=incarnations(shards[:1]))
    assert whole(rig.service.view()) == [True, False]
    shards[1].report(loaded=(process.session,))  # as the other side says it
    assert whole(rig.service.view()) == [True, True]


def test_a_view_has_the_parts_that_changed_since(rig: DirectoryRig) -> None:
    rig.follow("a")
    process = Process(rig, "0")
    process.report(part_of("a"))
    view = rig.service.view(0)
    assert [part.part for part in view.parts] == [part_of("a")] and view.sessions == (process.session,)
    process.report()
    assert rig.service.version == view.version and rig.service.view(view.version).parts == ()
    process.report(part_of("a", "b"))
    newer = rig.service.view(view.version)
    assert newer.version > view.version and len(newer.parts) == 1
    assert len(rig.service.view(newer.version + 5).parts) == 1, "a version that is none of ours"


def test_a_silent_subscriber_is_lost_and_comes_back(rig: DirectoryRig) -> None:
    rig.follow("a")
    process = Process(rig, "0")
    process.report(part_of("a"))
    rig.wait(4)
    assert [part.lost for part in rig.service.view().parts] == [True]
    process.report()
    assert [part.lost for part in rig.service.view().parts] == [False]


def test_a_restarted_subscriber_replaces_its_predecessor_in_one_version(rig: DirectoryRig) -> None:
    shards = rig.shards()
    rig.follow("a")
    old = Process(rig, "0")
    old.report(part_of("a"), loaded=incarnations(shards))
    new = Process(rig, "0")
    assert new.session > old.session
    assert set(range(*span(old.enlisted.lanes))).isdisjoint(range(*span(new.enlisted.lanes)))
    assert [(part.session, part.lost) for part in rig.service.view().parts] == [(old.session, True)]
    assert old.report().session == 0 and not old.report().goes, "superseded, by one of its own name"
    new.report(part_of("a"), settled=False, loaded=incarnations(shards))
    assert rig.service.view().sessions == (old.session,)
    new.report(loaded=incarnations(shards))
    view = rig.service.view()
    assert view.sessions == (new.session,) and [part.session for part in view.parts] == [new.session]
    assert whole(view) == [True, True]
    assert old.session in shards[0].report().retired
    assert rig.service.lent.lanes.resting == old.enlisted.lanes


def span(leases: tuple[Lease, ...]) -> tuple[int, int]:
    (lease,) = leases
    return lease.first, lease.first + lease.count


def test_a_shard_that_was_superseded_leaves_and_one_of_no_layout_goes(rig: DirectoryRig) -> None:
    old = rig.shards()[0]
    new = Shard(rig, old.slot)
    new.report()
    assert old.report().incarnation == 0 and not old.report().goes
    assert new.report().incarnation == new.incarnation
    stranger = Shard(rig, Slot(99, 0, 0))
    assert stranger.enlisted.goes and stranger.report().goes


def test_a_layout_is_committed_when_it_is_up_and_filled(rig: DirectoryRig) -> None:
    first = rig.shards()
    rig.follow("a")
    process = Process(rig, "0")
    process.report(part_of("a"), loaded=incarnations(first))
    rig.service.scale(3)
    second = rig.shards()
    view = rig.service.view()
    assert view.serving.number == 1 and view.building is not None and view.building.n_shards == 3
    process.report(loaded=incarnations(first + second))
    view = rig.service.view()
    assert (view.serving.number, view.building) == (2, None)
    assert whole(view) == [True] * 3 and [one.number for one in view.leaving] == [1]
    rig.wait(2)
    assert not first[0].report().goes, "readers may still look there"
    rig.wait(11)
    assert first[0].report().goes and rig.service.view().leaving == ()


def test_a_layout_that_is_never_filled_is_committed_when_its_time_is_over(rig: DirectoryRig) -> None:
    rig.shards()
    rig.follow("a")
    process = Process(rig, "0")
    process.report(part_of("a"))
    rig.service.scale(3)
    second = rig.shards()
    for _ in range(29):
        rig.wait(1)
        process.report()
        for shard in second:
            shard.report()
    assert rig.service.view().serving.number == 1
    rig.wait(1.5)
    assert rig.service.view().serving.number == 2 and whole(rig.service.view()) == [False] * 3


def test_a_layout_is_not_committed_while_a_shard_of_it_is_down(rig: DirectoryRig) -> None:
    rig.shards()
    rig.service.scale(3)
    building = rig.service.layouts.building
    assert building is not None
    for slot in list(building.slots)[:2]:
        Shard(rig, slot).report()
    rig.wait(100)
    assert rig.service.view().serving.number == 1


def test_scaling_back_gives_up_what_was_being_built(rig: DirectoryRig) -> None:
    rig.shards()
    rig.follow("a")
    Process(rig, "0").report(part_of("a"))
    rig.service.scale(3)
    given_up = rig.shards()
    rig.service.scale(2)
    assert rig.service.layouts.building is None and given_up[0].report().goes
    assert rig.service.view().serving.number == 1


def test_a_directory_lost_in_the_middle_of_a_reshard_builds_it_anew(rig: DirectoryRig) -> None:
    first = rig.shards()
    rig.follow("a")
    process = Process(rig, "0")
    process.report(part_of("a"), loaded=incarnations(first))
    rig.service.scale(3)
    second = [Shard(rig, slot) for slot in rig.service.layouts.building.slots]  # type: ignore[union-attr]
    version = rig.service.version
    rig.lose_directory()
    assert rig.service.version > version
    assert rig.service.layouts.serving.number == 1
    assert not first[0].report().goes and second[0].report().goes
    rig.service.tick(NODES)
    building = rig.service.layouts.building
    assert building is not None and building.number == 3 and building.shape.n_shards == 3


def test_a_directory_that_was_lost_shows_nothing_before_it_has_heard_of_all(rig: DirectoryRig) -> None:
    shards = rig.shards()
    rig.follow("a")
    process = Process(rig, "0")
    process.report(part_of("a"), loaded=incarnations(shards))
    rig.lose_directory()
    assert not rig.service.is_warm
    assert process.report().wants_part and process.report().session == process.session
    for shard in shards:
        shard.report(loaded=(process.session,))
    assert not rig.service.is_warm
    orders = process.report(part_of("a"))
    assert rig.service.is_warm and not orders.wants_part
    assert [one.pod for one in orders.pods] == ["a"] and orders.lanes == process.enlisted.lanes
    assert whole(rig.service.view()) == [True, True]


def test_a_subscriber_lost_with_the_directory_is_replaced_when_all_shards_are_known_and_loaded(
    rig: DirectoryRig,
) -> None:
    shards = rig.shards()
    rig.follow("a")
    old = Process(rig, "0")
    old.report(part_of("a"), loaded=incarnations(shards))
    rig.lose_directory()
    new = Process(rig, "0")
    known, unknown = shards
    known.report()
    new.report(part_of("a"), loaded=(known.incarnation,))
    assert rig.service.view().sessions == (old.session,) and not rig.service.is_warm
    unknown.report()
    new.report(loaded=incarnations(shards))
    assert rig.service.view().sessions == (new.session,) and rig.service.is_warm


def test_a_directory_that_hears_nothing_shows_what_there_is_after_a_while(rig: DirectoryRig) -> None:
    rig.shards()
    rig.lose_directory()
    rig.wait(6)
    assert rig.service.is_warm and not rig.service.is_ready


def test_readers_are_told_that_a_session_is_lost_that_a_new_directory_never_hears(rig: DirectoryRig) -> None:
    rig.follow("a")
    process = Process(rig, "0")
    process.report(part_of("a"))
    rig.lose_directory()
    version = rig.service.version
    assert rig.service.view().lost == ()
    rig.wait(4)
    view = rig.service.view(version)
    assert view.version > version and view.parts == ()
    assert view.sessions == view.lost == (process.session,)
    process.report(part_of("a"))
    assert rig.service.view().lost == () and len(rig.service.view().parts) == 1


def test_a_session_of_a_subscriber_that_was_just_let_go_of_is_not_restored(
    rig: DirectoryRig, tmp_path: Path
) -> None:
    rig.follow("a")
    process = Process(rig, "0")
    process.report(part_of("a"))
    state = FileKeeper(tmp_path).get("state")
    rig.follow()
    FileKeeper(tmp_path).put("state", state or b"")  # it was lost between the two
    rig.lose_directory()
    assert rig.service.sessions.all == () and process.report().goes


def test_nothing_is_issued_twice_over_restarts(rig: DirectoryRig) -> None:
    rig.follow("a")
    seen: set[int] = set()
    for _ in range(4):
        shards = rig.shards()
        process = Process(rig, "0")
        numbers = {process.session + 1_000_000, *incarnations(shards)}
        assert not numbers & seen
        seen |= numbers
        rig.lose_directory()


def test_another_start_of_the_name_continues_the_numbers_and_nothing_else(rig: DirectoryRig) -> None:
    rig.follow("a")
    before = Process(rig, "0")
    before.report(part_of("a"))
    secrets = rig.service.reader_secrets()
    rig.lose_directory(cluster_id="two")
    assert rig.service.view().sessions == () and rig.service.is_warm
    assert rig.service.reader_secrets().hash_seed != secrets.hash_seed
    assert before.report().goes
    rig.follow("a")
    assert Process(rig, "0").session > before.session


def test_pods_found_before_are_kept_until_discovery_has_had_its_time(rig: DirectoryRig) -> None:
    rig.follow("a", "b")
    rig.lose_directory()
    rig.follow("a")
    assert set(rig.service.pods) == {"a", "b"}
    rig.wait(10.5)
    rig.follow("a")
    assert set(rig.service.pods) == {"a"}


def test_a_subscriber_without_pods_goes_and_its_session_is_over(rig: DirectoryRig) -> None:
    rig.follow("a")
    process = Process(rig, "0")
    process.report(part_of("a"))
    version = rig.service.view().orders["0"]
    rig.follow("a", "b")
    assert rig.service.view().orders["0"] > version
    assert [one.pod for one in process.report().pods] == ["a", "b"]
    rig.follow()
    assert process.report().goes and rig.service.view().sessions == ()
    assert Process(rig, "0").enlisted.goes
    assert Process(rig, "7").enlisted.goes


def test_lanes_are_lent_as_they_are_needed(rig: DirectoryRig) -> None:
    rig.follow("a")
    process = Process(rig, "0")
    assert sum(lease.count for lease in process.enlisted.lanes) == 256
    assert process.report(lanes_free=63).lanes != process.enlisted.lanes
    held = 0
    for _ in range(40):
        held = sum(lease.count for lease in process.report(lanes_free=0).lanes)
    assert held == 65_534 and rig.service.counts["numbers_exhausted"] > 0
    rig.lose_directory()
    assert sum(lease.count for lease in process.report().lanes) == held


def test_the_smallest_block_size_of_a_model_is_told_to_all(rig: DirectoryRig) -> None:
    rig.follow("a")
    process = Process(rig, "0")
    orders = process.report(FleetPart(block_sizes={"m": 32, "n": 0}))
    assert orders.block_sizes == {"m": 32}


def test_what_came_while_the_directory_stood_still_is_nobodys_silence(rig: DirectoryRig) -> None:
    rig.shards()
    rig.follow("a")
    Process(rig, "0").report(part_of("a"))
    rig.now_s += 60
    rig.service.tick(NODES)
    view = rig.service.view()
    assert [part.lost for part in view.parts] == [False] and len(view.serving.replicas) == 2


def test_secrets_of_shards_are_not_handed_to_readers(rig: DirectoryRig) -> None:
    assert rig.service.reader_secrets().keys.server_secret == ""
    assert rig.shards()[0].enlisted.keys.server_secret  # type: ignore[union-attr]
    assert "secret" not in repr(rig.service.settings)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"shards": 0}, "shards: expected 1 to 1024, got 0"),
        ({"replicas_per_node": 9}, "replicas_per_node: expected 0 to 8, got 9"),
        ({"off_nodes": ("node1", "node2")}, "off_nodes: expected a node to be left"),
        ({"off_nodes": ("node1", "nowhere")}, "off_nodes: expected nodes of .* got \\['nowhere'\\]"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    rig: DirectoryRig, wanted: dict[str, object], expected: str
) -> None:
    before = rig.service.resharding.wanted
    with pytest.raises(InputError, match=expected):
        rig.service.scale(**wanted)  # type: ignore[arg-type]
    assert rig.service.resharding.wanted == before and rig.service.layouts.building is None


def test_a_state_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    rig = DirectoryRig(tmp_path)
    FileKeeper(tmp_path).put("state", b"\x81\xa1x\x01")
    rig.lose_directory()
    assert rig.service.layouts.serving.number == 2


def test_readers_are_not_told_of_announcers_as_pods_that_serve(rig: DirectoryRig) -> None:
    rig.follow("a", "store:nfs#evictor")
    assert [told.pod for told in rig.service.view().pods or ()] == ["a"]
    assert set(rig.service.assignments.subscriber_of) == {"a", "store:nfs#evictor"}
