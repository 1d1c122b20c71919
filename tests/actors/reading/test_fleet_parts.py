"""What is kept of the directory's answers, which tell only what is new."""

from __future__ import annotations

import msgspec

from kvatlas.actors.orders import ClusterView, Layout, LinkKeys, PartView, ReaderSecrets, decode, encode
from kvatlas.actors.reading.fleet_parts import FleetParts
from kvatlas.index.groups import Group
from kvatlas.index.view import FleetPart, WorkerView


def secrets(cluster_id: str = "") -> ReaderSecrets:
    keys = LinkKeys(server_public="")
    return ReaderSecrets(
        hash_seed="s", algorithm="fold64", tier_weights={}, keys=keys, view_s_max=10.0, cluster_id=cluster_id
    )


def worker(number: int, pod: str) -> WorkerView:
    return WorkerView(
        number=number, pod=pod, rank=0, model="m", groups=(Group(number),), state="EXACT", stores=("nfs",)
    )


def part(session: int, *workers: WorkerView) -> PartView:
    told = FleetPart(block_sizes={"m": 16}, workers=workers, stores={"nfs": 900 + session})
    return PartView(session=session, subscriber=str(session), lost=False, part=told)


def view(version: int, sessions: tuple[int, ...], *parts: PartView) -> ClusterView:
    made = ClusterView(
        version=version,
        cluster="c",
        serving=Layout(number=1, n_shards=1),
        sessions=sessions,
        parts=parts,
    )
    return decode(encode(made), ClusterView)


def test_parts_are_kept_by_session_until_the_view_drops_it() -> None:
    parts = FleetParts()
    assert parts.take(view(3, (1, 2), part(1, worker(1, "a")), part(2, worker(2, "b"))), 0, secrets())
    assert set(parts.fleet.names.values()) == {("a", 0), ("b", 0)}
    assert parts.take(view(4, (1, 2), part(2, worker(2, "c"))), 3, secrets())
    assert set(parts.fleet.names.values()) == {("a", 0), ("c", 0)}
    assert not parts.take(view(4, (1, 2)), 4, secrets()), "nothing new"
    assert parts.take(view(5, (2,)), 4, secrets())
    assert set(parts.fleet.names.values()) == {("c", 0)}


def test_all_is_asked_for_when_a_session_has_no_part_here_and_only_once() -> None:
    parts = FleetParts()
    parts.take(view(3, (1,), part(1, worker(1, "a"))), 0, secrets())
    parts.take(view(4, (1, 2)), 3, secrets())
    assert parts.since == 0
    parts.take(view(4, (1, 2), part(1, worker(1, "a"))), 0, secrets())
    assert parts.since == 4, "it has not told any yet"


def test_all_is_asked_for_when_versions_run_backwards() -> None:
    parts = FleetParts()
    parts.take(view(9, (1,), part(1, worker(1, "a"))), 0, secrets())
    parts.take(view(4, (1,)), 9, secrets())
    assert parts.since == 0


def test_a_roster_is_made_anew_only_when_matches_may_change() -> None:
    parts = FleetParts()
    parts.take(view(3, (1,), part(1, worker(1, "a"))), 0, secrets())
    roster = parts.fleet.roster
    doubted = msgspec.structs.replace(worker(1, "a"), state="PARTIAL", doubts=("late",))
    parts.take(view(4, (1,), part(1, doubted)), 3, secrets())
    assert parts.fleet.truths[1].state == "PARTIAL"
    assert parts.fleet.roster is roster
    parts.take(view(5, (1,), part(1, worker(1, "a"), worker(2, "b"))), 4, secrets())
    assert parts.fleet.roster is not roster


def test_a_lost_session_is_believed_no_more_also_where_no_part_says_so() -> None:
    parts = FleetParts()
    parts.take(view(3, (1, 2), part(1, worker(1, "a")), part(2, worker(2, "b"))), 0, secrets())
    assert parts.take(msgspec.structs.replace(view(4, (1, 2)), lost=(1,)), 3, secrets())
    states = {number: truth.state for number, truth in parts.fleet.truths.items()}
    assert states == {1: "DEGRADED", 2: "EXACT"}
    assert parts.take(view(5, (1, 2)), 4, secrets())
    assert {truth.state for truth in parts.fleet.truths.values()} == {"EXACT"}
