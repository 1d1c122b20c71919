"""A dump that a guest shows: by a real guest's session and shards on sockets, beside what subscribers say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from kvatlas.actors.guest.guest_service import GuestService
from kvatlas.actors.moving.cut import take_cut
from kvatlas.actors.moving.loaded_dump import LoadedDump
from kvatlas.actors.orders import ClusterView, Lease, PartView, SubscriberOrders
from kvatlas.index.errors import DumpError, InputError
from kvatlas.index.groups import Group
from kvatlas.index.view import FleetPart, WorkerView
from kvatlas.ingest.numbering import LeasedNumbers
from kvatlas.ingest.shown_dump import ShownDump, shown_age
from tests.actors.link.link_peers import wait_until
from tests.actors.moving.cut_rig import CutRig
from tests.actors.subscriber.shards_by_mail import held

NOW_S = 1_000_000.0


class Dumped:
    """A dump of one cluster, and a guest of another, which has nothing else."""

    def __init__(self, n_lanes: int = 50) -> None:
        self.there = CutRig()
        self.here = CutRig(n_sessions=0, n_shards=2)
        self.now_s = NOW_S
        cut = take_cut(self.there)
        self.parts = [one.part for one in cut.parts]
        self.sections = [section for export in cut.exports for section in export.sections()]
        orders = SubscriberOrders(session=70, lanes=(Lease(300, n_lanes),), workers=(Lease(900, 50),))
        self.service = GuestService("guest/dump", orders, open_link=self.here.links.open, lane_rest_s=0.0)
        self.service.start(orders)
        self.service.follow(self.here.shards.view(70))
        self.loaded = LoadedDump(self.service, wall_s=lambda: self.now_s)

    def load(self) -> None:
        self.loaded.load(self.parts, self.sections, NOW_S - 90)
        self.service.wait_delivered(20.0)

    def keys(self) -> list[int]:
        """All that the mirrors of the first cluster hold."""
        found: set[int] = set()
        for session in self.there.sessions.values():
            for keys in session.mirror.residency("m").values():
                found |= keys.keys()
        return sorted(found)

    def shown(self) -> dict[str, int]:
        """Blocks by pod, as a reader of the second cluster finds them."""
        lanes: dict[int, int] = {}
        for shard in self.here.shards.shards:
            for lane, _ in held(shard.service.table, self.keys()):
                lanes[lane] = lanes.get(lane, 0) + 1
        part = self.service.told.part()
        return {
            worker.pod: sum(lanes.get(group.lane, 0) for group in worker.groups) for worker in part.workers
        }

    def heard(self, *pods: str) -> ClusterView:
        """A view in which a subscriber has heard these."""
        workers = tuple(
            WorkerView(number=n, pod=pod, rank=0, model="m", state="EXACT", groups=(Group(n),))
            for n, pod in enumerate(pods)
        )
        part = PartView(session=1, subscriber="0", lost=False, part=FleetPart(workers=workers))
        layout = self.here.shards.plan.layout
        return ClusterView(version=1, cluster="c", serving=layout, sessions=(1, 70), parts=(part,))

    def close(self) -> None:
        self.service.stop()
        self.here.close()
        self.there.close()


@pytest.fixture
def dumped() -> Iterator[Dumped]:
    made = Dumped()
    yield made
    made.close()


PODS = ("pod1a", "pod1b", "pod2a", "pod2b")


def test_dump_is_shown_by_name_and_vouched_for_by_nobody(dumped: Dumped) -> None:
    dumped.load()
    assert dumped.shown() == dict.fromkeys(PODS, 3)
    part = dumped.service.told.part()
    assert {worker.doubts[0] for worker in part.workers} == {"from a dump of 1 min ago"}
    assert "EXACT" not in {worker.state for worker in part.workers}
    assert {group.lane // 50 for worker in part.workers for group in worker.groups} == {6}


def test_worker_that_a_subscriber_has_heard_is_given_up(dumped: Dumped) -> None:
    dumped.load()
    dumped.loaded.follow(dumped.heard("pod1b", "stranger"))
    dumped.service.wait_delivered(20.0)
    assert dumped.shown() == {"pod1a": 3, "pod2a": 3, "pod2b": 3}
    assert len(lanes_in_use(dumped)) == 3
    report = dumped.loaded.report()
    assert (report.workers, report.heard) == (3, 1)


def test_worker_that_was_heard_before_is_never_shown(dumped: Dumped) -> None:
    dumped.loaded.follow(dumped.heard("pod2a"))
    dumped.load()
    dumped.load()
    assert dumped.shown() == {"pod1a": 3, "pod1b": 3, "pod2b": 3}
    assert len(lanes_in_use(dumped)) == 3


def lanes_in_use(dumped: Dumped) -> set[int]:
    return {
        lane for shard in dumped.here.shards.shards for lane, _ in held(shard.service.table, dumped.keys())
    }


def test_next_dump_takes_the_place_of_the_one_before(dumped: Dumped) -> None:
    dumped.load()
    lanes = lanes_in_use(dumped)
    dumped.there.sessions[1].tell()
    cut = take_cut(dumped.there)
    dumped.parts = [cut.parts[0].part]
    dumped.sections = [section for export in cut.exports for section in export.sections()]
    dumped.load()
    assert dumped.shown() == {"pod1a": 6, "pod1b": 6}
    assert lanes_in_use(dumped) < lanes


def test_shard_that_comes_back_empty_is_told_again(dumped: Dumped) -> None:
    dumped.load()
    dumped.here.shards.restart(1)
    dumped.service.follow(dumped.here.shards.view(70))
    wait_until(lambda: dumped.shown() == dict.fromkeys(PODS, 3))


def test_age_of_the_dump_is_told_anew_when_it_reads_differently(dumped: Dumped) -> None:
    dumped.load()
    version = dumped.service.told.part_version
    dumped.loaded.refresh()
    assert dumped.service.told.part_version == version
    dumped.now_s += 3600
    dumped.loaded.refresh()
    assert dumped.service.told.part().workers[0].doubts[0] == "from a dump of 1 h ago"


def test_stores_stand_under_names_of_their_own(dumped: Dumped) -> None:
    workers = tuple(worker for part in dumped.parts for worker in part.workers)
    attached = WorkerView(number=1, pod="p", rank=0, model="m", stores=("nfs",), groups=(Group(7),))
    dumped.parts = [FleetPart(workers=(*workers, attached), stores={"nfs": 8})]
    dumped.load()
    part = dumped.service.told.part()
    assert part.stores.keys() == {"nfs@guest/dump"}
    assert part.workers[-1].stores == ("nfs@guest/dump",)


def test_content_that_is_none_changes_nothing(dumped: Dumped) -> None:
    dumped.load()
    dumped.sections = [dumped.sections[0][:-1]]
    with pytest.raises(DumpError):
        dumped.load()
    dumped.service.wait_delivered(20.0)
    assert dumped.shown() == dict.fromkeys(PODS, 3)


def test_dump_with_more_workers_than_there_are_lanes_changes_nothing() -> None:
    dumped = Dumped(n_lanes=3)
    with pytest.raises(InputError, match="lanes: expected one of 3 leased"):
        dumped.load()
    assert dumped.shown() == {}
    assert dumped.service.numbers.lanes_free == 3
    dumped.close()


def test_lanes_that_come_by_and_by_are_kept_until_there_are_enough() -> None:
    """The directory doubles what a session has when little of it is free; what is given back rests."""
    n_workers, held = 3_000, 256
    parts = [FleetPart(workers=tuple(view(number) for number in range(n_workers)))]
    numbers = LeasedNumbers(rest_s=60.0, clock_s=lambda: 0.0)
    numbers.lease([(0, held)], [(0, held)])
    shown = ShownDump(Teller(numbers))
    while missing := shown.reserve(parts):
        assert missing == 2 * (n_workers - held), "a lane and a number of each"
        numbers.lease([(held, held)], [(held, held)])
        held *= 2
    assert numbers.lanes_free == held - n_workers
    shown.load(parts, [], 1.0)
    assert shown.report().workers == n_workers
    assert held == 4_096, "none of them rests"


def view(number: int) -> WorkerView:
    return WorkerView(number=number, pod=f"p{number}", rank=0, model="m", groups=(Group(number),))


class Teller:
    """Tells nobody."""

    name = "guest/dump"

    def __init__(self, numbers: LeasedNumbers) -> None:
        self.numbers = numbers

    def load(self, sections: Iterable[bytes], lanes: dict[int, int] | None = None) -> None: ...
    def remove_lanes(self, lanes: Iterable[int]) -> None: ...
    def set_part(self, part: FleetPart) -> None: ...


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (9, "0 s"), (59, "50 s"), (60, "1 min"), (7199, "1 h"), (200_000, "2 d")],
)
def test_ages_are_shown_in_the_largest_unit(seconds: float, text: str) -> None:
    assert shown_age(seconds) == text
