"""Pods given to subscribers, by random fleets that share stores and addresses."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from kvatlas.actors.directory.assignments import Assignments, ties
from kvatlas.ingest.config import PodConfig
from kvatlas.ingest.discovery.pods import DiscoveredPod
from kvatlas.ingest.sockets.source_config import SourceConfig

NODES = {"n1", "n2"}


def pod(
    name: str, *, stores: tuple[str, ...] = (), node: str | None = None, dials: str = ""
) -> DiscoveredPod:
    address = SourceConfig(endpoint=f"tcp://*:{dials}", bind=True) if dials else None
    source = address or SourceConfig(endpoint=f"tcp://{name}:5557")
    return DiscoveredPod(pod=name, sources=(source,), settings=PodConfig(stores=stores), node=node)


@st.composite
def fleets(draw: st.DrawFn) -> list[DiscoveredPod]:
    names = draw(st.sets(st.sampled_from([f"p{n}" for n in range(12)])))
    stores = st.lists(st.sampled_from(["s1", "s2", "s3"]), max_size=2, unique=True).map(tuple)
    nodes = st.sampled_from([None, "n1", "n2", "elsewhere"])
    dials = st.sampled_from(["", "", "", "5557"])
    return [pod(name, stores=draw(stores), node=draw(nodes), dials=draw(dials)) for name in sorted(names)]


def tied_groups(pods: list[DiscoveredPod]) -> list[set[str]]:
    """Pods that must go together."""
    groups: list[tuple[set[str], set[str]]] = []
    for one in pods:
        mine, names = set(ties(one)), {one.pod}
        for group in [group for group in groups if group[0] & mine]:
            groups.remove(group)
            mine |= group[0]
            names |= group[1]
        groups.append((mine, names))
    return [names for _, names in groups]


@given(rounds=st.lists(fleets(), max_size=6), pods_each=st.integers(1, 4), near=st.booleans())
def test_every_pod_has_one_subscriber_and_tied_pods_the_same(
    rounds: list[list[DiscoveredPod]], pods_each: int, near: bool
) -> None:
    assignments = Assignments(pods_each, 99, near_pods=near)
    before: dict[str, list[DiscoveredPod]] = {}
    gone: set[str] = set()
    ever_tied = False
    for pods in rounds:
        changed = assignments.update({one.pod: one for one in pods}, NODES)
        of = assignments.subscriber_of
        assert set(of) == {one.pod for one in pods}
        for group in tied_groups(pods):
            assert len({of[name] for name in group}) == 1
        ever_tied |= any(list(ties(one)) for one in pods)
        assert ever_tied or max(Counter(of.values()).values(), default=0) <= pods_each
        now = {name: assignments.pods_of(name) for name in assignments.subscribers}
        assert all(now.values())
        differ = {name for name in {*now, *before} if now.get(name) != before.get(name)}
        settings_only = {name for name in differ if name in now and name in before} - changed
        assert differ - settings_only <= changed
        assert not gone & set(now), "a name is not used again"
        gone |= set(before) - set(now)
        before = now


def test_a_pod_stays_where_it_is_while_others_come_and_go() -> None:
    assignments = Assignments(2, 99, near_pods=True)
    first = {name: pod(name) for name in ("a", "b", "c")}
    assignments.update(first, NODES)
    of = dict(assignments.subscriber_of)
    assert of["a"] == of["b"] != of["c"]
    changed = assignments.update({"b": first["b"], "c": first["c"], "d": pod("d")}, NODES)
    assert assignments.subscriber_of == {"b": of["b"], "c": of["c"], "d": of["b"]}
    assert changed == {of["b"]}


def test_pods_near_a_node_have_a_subscriber_there() -> None:
    assignments = Assignments(16, 999, near_pods=True)
    pods = {one.pod: one for one in (pod("a", node="n1"), pod("b", node="n2"), pod("c", node="far"))}
    assignments.update(pods, NODES)
    names = assignments.subscriber_of
    assert len(set(names.values())) == 3
    assert assignments.node_of == {names["a"]: "n1", names["b"]: "n2"}


def test_a_pod_that_ties_two_subscribers_brings_them_together() -> None:
    assignments = Assignments(1, 99, near_pods=False)
    apart = {"a": pod("a", stores=("s1",)), "b": pod("b", stores=("s2",))}
    assignments.update(apart, NODES)
    assert len(set(assignments.subscriber_of.values())) == 2
    assignments.update({**apart, "c": pod("c", stores=("s1", "s2"))}, NODES)
    assert len(set(assignments.subscriber_of.values())) == 1
    assert assignments.counts["pods_moved"] == 1


def test_ten_thousand_pods_are_dealt_out() -> None:
    assignments = Assignments(16, 999, near_pods=True)
    assignments.update({f"p{n}": pod(f"p{n}") for n in range(10_000)}, NODES)
    assert Counter(assignments.subscriber_of.values()).most_common(1)[0][1] == 16
    assert len(assignments.subscribers) == 625


def test_a_storm_of_pods_makes_no_storm_of_subscribers() -> None:
    assignments = Assignments(16, 8, near_pods=True)
    assignments.update({f"p{n}": pod(f"p{n}", node="n1" if n % 2 else None) for n in range(1_000)}, NODES)
    assert len(assignments.subscribers) == 8
    assert Counter(assignments.subscriber_of.values()).most_common(1)[0][1] == 125
    assert assignments.counts["pods_beyond"] >= 1_000 - 8 * 16


def test_who_announces_a_store_goes_where_its_readers_are() -> None:
    assignments = Assignments(1, 99, near_pods=False)
    pods = [pod("p1", stores=("s1",)), pod("p2", stores=("s2",)), pod("store:s2#evictor")]
    named = DiscoveredPod(
        pod="any name",
        sources=(SourceConfig(endpoint="tcp://any:5557"),),
        settings=PodConfig(stores=("s1",), announces=True),
    )
    assignments.update({one.pod: one for one in (*pods, named)}, NODES)
    of = assignments.subscriber_of
    assert of["store:s2#evictor"] == of["p2"] != of["p1"] == of["any name"]
