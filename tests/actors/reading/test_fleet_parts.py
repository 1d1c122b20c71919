"""What is kept of the directory's answers, which tell only what is new."""

from __future__ import annotations

import msgspec

from kvatlas.actors.orders import (
    ClusterView,
    Layout,
    LinkKeys,
    PartView,
    ReaderSecrets,
    ToldPod,
    ToldServing,
    decode,
    encode,
)
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


def served(pod: str, model: str = "m", **serving: object) -> ToldPod:
    return ToldPod(pod=pod, model=model, serving=msgspec.convert(serving, ToldServing))


def test_pods_that_are_described_stand_beside_those_that_are_only_heard() -> None:
    parts = FleetParts()
    seen = view(3, (1,), part(1, worker(1, "a"), worker(2, "b")))
    assert parts.take(msgspec.structs.replace(seen, pods=(served("a", url="http://a:1"),)), 0, secrets())
    assert {pod: told.serving.url for pod, told in parts.serving.items()} == {"a": "http://a:1", "b": None}
    version = parts.serving_version
    assert not parts.take(view(4, (1,)), 3, secrets()), "nothing is told of pods: as before"
    assert (parts.serving_version, len(parts.serving)) == (version, 2)
    assert parts.take(msgspec.structs.replace(view(5, (1,)), pods=(served("c"),)), 4, secrets())
    assert set(parts.serving) == {"a", "b", "c"}
    assert parts.serving["a"].serving.url is None
    assert parts.serving_version != version
    assert parts.subscribers == {"a": "1", "b": "1"}


def test_a_pod_whose_model_only_its_events_say_is_chosen_when_they_have() -> None:
    parts = FleetParts()
    unheard = msgspec.structs.replace(view(3, ()), pods=(served("a", model="", url="http://a:1"),))
    parts.take(unheard, 0, secrets())
    assert parts.serving == {}
    parts.take(view(4, (1,), part(1, worker(1, "a"))), 3, secrets())
    assert (parts.serving["a"].model, parts.serving["a"].serving.url) == ("m", "http://a:1")


def test_what_a_newer_release_says_of_a_pod_is_read_as_far_as_it_is_known() -> None:
    raw = msgspec.to_builtins(msgspec.structs.replace(view(3, ()), pods=(served("a", role="decode"),)))
    raw["pods"][0]["colour"] = raw["pods"][0]["serving"]["colour"] = "blue"
    told = decode(msgspec.msgpack.encode(raw), ClusterView).pods
    assert told is not None and told[0].serving.role == "decode"
