"""Sessions of guests: they come and go by themselves; a subscriber's word counts more than theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvatlas.actors.directory.guest_parts import beside_guests, beside_subscribers
from kvatlas.actors.directory.supervision import wanted_actors
from kvatlas.actors.orders import SubscriberReport
from kvatlas.index.groups import Group
from kvatlas.index.view import FleetPart, WorkerView
from tests.actors.directory.directory_rig import DirectoryRig, Process, part_of


def worker(number: int, pod: str, state: str = "EXACT", lane: int | None = 1) -> WorkerView:
    groups = () if lane is None else (Group(lane),)
    return WorkerView(number=number, pod=pod, rank=0, model="m", state=state, groups=groups)


def pods(part: FleetPart) -> list[str]:
    return [one.pod for one in part.workers]


def test_worker_that_a_subscriber_has_heard_is_the_subscribers() -> None:
    guest = FleetPart(workers=(worker(1, "a", "DEGRADED"), worker(2, "b", "DEGRADED")))
    fed = FleetPart(workers=(worker(3, "a"),))
    assert pods(beside_subscribers(guest, [fed])) == ["b"]
    assert beside_guests(fed, [guest]) is fed


def test_worker_that_no_subscriber_has_heard_yet_is_the_guests() -> None:
    guest = FleetPart(workers=(worker(1, "a", "DEGRADED"),))
    fed = FleetPart(workers=(worker(3, "a", "BLIND", None), worker(4, "b", "BLIND", None)))
    assert beside_subscribers(guest, [fed]) is guest
    assert pods(beside_guests(fed, [guest])) == ["b"]


def test_worker_that_holds_nothing_but_is_vouched_for_counts_as_heard() -> None:
    guest = FleetPart(workers=(worker(1, "a", "DEGRADED"),))
    fed = FleetPart(workers=(worker(3, "a", "EXACT", None),))
    assert pods(beside_subscribers(guest, [fed])) == []
    assert beside_guests(fed, [guest]) is fed


GUEST = "guest/dump"


@pytest.fixture
def rig(tmp_path: Path) -> DirectoryRig:
    return DirectoryRig(tmp_path)


def shown(rig: DirectoryRig, since: int = 0) -> dict[str, list[str]]:
    """Pods by the session that readers are told them by."""
    return {one.subscriber: pods(one.part) for one in rig.service.view(since).parts}


def test_guest_gets_a_session_and_numbers_but_no_pods_and_no_actor(rig: DirectoryRig) -> None:
    rig.follow("a")
    guest = Process(rig, GUEST)
    assert guest.session and guest.enlisted.pods == ()
    assert guest.enlisted.lanes[0].count and guest.enlisted.workers[0].count
    assert guest.session in rig.service.view().sessions
    assert not [name for name in wanted_actors(rig.service) if "guest" in name]


def test_shards_are_whole_without_a_guests_content(rig: DirectoryRig) -> None:
    shards = rig.shards()
    guest = Process(rig, GUEST)
    guest.report(part_of("a"))
    orders = shards[0].report()
    assert guest.session not in orders.sessions
    assert all(replica.whole for replica in rig.service.view().serving.replicas)


def test_new_layout_is_filled_with_what_guests_hold_too(rig: DirectoryRig) -> None:
    rig.shards()
    guest = Process(rig, GUEST)
    guest.report(part_of("a"))
    rig.service.scale(shards=3)
    shards = rig.shards()
    assert rig.service.layouts.building is not None
    guest.report(loaded=tuple(shard.incarnation for shard in shards))
    assert rig.service.layouts.building is None


def test_readers_are_told_anew_when_a_subscriber_hears_a_guests_worker_and_when_the_guest_leaves(
    rig: DirectoryRig,
) -> None:
    rig.follow("a", "b")
    subscriber = Process(rig, "0")
    subscriber.report(FleetPart(workers=(worker(1, "a", "BLIND", None), worker(2, "b", "BLIND", None))))
    guest = Process(rig, GUEST)
    guest.report(part_of("a"))
    assert shown(rig) == {"0": ["b"], GUEST: ["a"]}
    version = rig.service.version
    subscriber.report(FleetPart(workers=(worker(1, "a"), worker(2, "b", "BLIND", None))))
    assert shown(rig, version) == {"0": ["a", "b"], GUEST: []}
    subscriber.report(FleetPart(workers=(worker(1, "a", "BLIND", None),)))
    assert shown(rig) == {"0": [], GUEST: ["a"]}
    version = rig.service.version
    left = rig.service.report_subscriber(SubscriberReport(session=guest.session, name=GUEST, leaves=True))
    assert left.goes
    assert shown(rig, version) == {"0": ["a"]}
    assert guest.session in rig.service.sessions.retired
    assert guest.report().goes


def test_guest_that_is_silent_for_a_minute_is_over(rig: DirectoryRig) -> None:
    guest = Process(rig, GUEST)
    guest.report(part_of("a"))
    rig.wait(50)
    assert guest.session in rig.service.view().lost
    rig.wait(20)
    assert rig.service.view().sessions == ()
    assert rig.service.counts["guests_ended"] == 1


def test_guest_goes_on_when_the_directory_was_lost(rig: DirectoryRig) -> None:
    guest = Process(rig, GUEST)
    guest.report(part_of("a"))
    rig.lose_directory()
    orders = guest.report(part_of("a"))
    assert (orders.session, orders.goes, orders.lanes) == (guest.session, False, guest.enlisted.lanes)
    assert shown(rig) == {GUEST: ["a"]}


def test_guests_beyond_the_bound_are_turned_away(rig: DirectoryRig) -> None:
    for number in range(64):
        assert Process(rig, f"guest/{number}").session
    assert Process(rig, "guest/one more").enlisted.goes
    assert Process(rig, "guest/7").session, "one that is known comes again"
