"""An llm-d and a kvatlas on one server, either of them writing."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

import kvatlas
from kvatlas.index.errors import InputError
from kvatlas.index.remote.llmd.lane_names import NOBODY_VOUCHES, LaneNames
from kvatlas.index.remote.llmd.reader import LlmdReader
from tests.index.backends.telling import add, cleared, remove, runs, tell
from tests.index.remote.llmd.conftest import Opens
from tests.index.remote.llmd.peer import Entry, LlmdPeer, fields_of
from tests.models.table import ADD, Record
from tests.servers.redis_server import RedisServer

MODEL = "test-model"
PROMPT = list(range(1, 33))
KEYS = kvatlas.block_keys(PROMPT, model=MODEL, block_size=16, algorithm="fnv64a_cbor")
GOLDEN = (
    b'{"PodIdentifier":"pod-0","DeviceTier":"gpu","Speculative":false,"HasGroup":false,"GroupIdx":0}',
    b'{"PodIdentifier":"pod-1","DeviceTier":"gpu","Speculative":false,"HasGroup":false,"GroupIdx":0}',
    b'{"PodIdentifier":"pod-1","DeviceTier":"cpu","Speculative":false,"HasGroup":false,"GroupIdx":0}',
)
WEIGHTS = {"gpu": 1.0, "cpu": 0.8}


def test_what_is_on_the_server_is_llm_d_s_byte_for_byte(opens: Opens, redis_server: RedisServer) -> None:
    index = opens()
    add(index, 0, KEYS)
    add(index, 1, KEYS[:1], 1 | 2)
    assert [int(key) for key in KEYS] == [9540012594951042066, 16921089685996993662]
    with redis_server.client() as client:
        assert sorted(client.keys()) == [b"16921089685996993662", b"9540012594951042066"]
        assert fields_of(client, 16921089685996993662) == dict.fromkeys(GOLDEN[:1], b"")
        assert fields_of(client, 9540012594951042066) == dict.fromkeys(GOLDEN, b"")


def test_llm_d_reads_what_we_write(opens: Opens, peer: LlmdPeer) -> None:
    index = opens()
    add(index, 0, KEYS)
    add(index, 1, KEYS, 2)
    assert peer.scores(KEYS.tolist(), WEIGHTS) == {"pod-0": 2.0, "pod-1": 1.6}
    remove(index, 0, KEYS[1:])
    tell(index, cleared(1))
    assert peer.lookup(KEYS.tolist()) == {int(KEYS[0]): [Entry("pod-0")]}


def test_we_read_what_llm_d_writes(opens: Opens, peer: LlmdPeer) -> None:
    index = opens()
    peer.add([71, 72], KEYS.tolist(), [Entry("pod-3"), Entry("pod-3", "cpu"), Entry("a-stranger")])
    assert index.lookup(KEYS) == [[(3, 1 | 2)]] * 2
    assert runs(index.match(KEYS)) == {3: 2}
    peer.evict(72, [Entry("pod-3"), Entry("pod-3", "cpu")])
    assert runs(index.match(KEYS)) == {3: 1}
    peer.clear("pod-3")
    assert runs(index.match(KEYS)) == {}
    assert index.statistics()[0]["nobodys_fields"] == 1


def test_groups_are_told_apart_both_ways(opens: Opens, peer: LlmdPeer) -> None:
    names = LaneNames()
    names.put(0, "p", 0)
    names.put(1, "p", 1)
    index = opens(names)
    add(index, 0, KEYS)
    add(index, 1, KEYS[:1])
    first, second = (peer.lookup(KEYS.tolist())[key] for key in KEYS.tolist())
    assert set(first) == {Entry("p", HasGroup=True), Entry("p", HasGroup=True, GroupIdx=1)}
    assert second == [Entry("p", HasGroup=True)]
    peer.add(None, KEYS[1:].tolist(), [Entry("p", HasGroup=True, GroupIdx=1), Entry("p")])
    assert index.lookup(KEYS) == [[(0, 1), (1, 1)]] * 2


def test_speculative_entries_are_told_and_read_as_such(opens: Opens, peer: LlmdPeer) -> None:
    index = opens()
    tell(index, Record(ADD, 0, 32, tuple(KEYS.tolist())))
    assert peer.lookup(KEYS.tolist())[int(KEYS[0])] == [Entry("pod-0", Speculative=True)]
    peer.add(None, KEYS.tolist(), [Entry("pod-1", "", Speculative=True)])
    assert index.lookup(KEYS[:1]) == [[(0, 32), (1, 32)]]
    assert runs(index.match(KEYS)) == {0: 2, 1: 2}


def test_clearing_a_lane_takes_its_pod_s_entries_however_they_were_written(
    opens: Opens, redis_server: RedisServer
) -> None:
    index = opens()
    add(index, 0, KEYS)
    add(index, 1, KEYS)
    with redis_server.client() as client:
        client.hset(str(KEYS[0]), '{"DeviceTier": "nvme", "PodIdentifier": "pod-0"}', "")
        index.remove_lane(0)
        assert index.lookup(KEYS) == [[(1, 1)]] * 2
        index.remove_lanes([1])
        assert client.keys() == []


@pytest.mark.slow
def test_random_changes_of_both_sides_are_read_alike(opens: Opens, peer: LlmdPeer) -> None:
    """Ours writes pods 0 to 3, llm-d pods 4 to 7; both read all."""
    rnd = random.Random(8)
    index = opens()
    chains = [np.array(rnd.sample(range(2, 1 << 63), 40), np.uint64) for _ in range(4)]
    for _ in range(60):
        keys, pod = rnd.choice(chains), rnd.randrange(8)
        first, end = sorted(rnd.sample(range(len(keys) + 1), 2))
        tier, name = rnd.choice([(1, "gpu"), (2, "cpu")])
        some = keys[first:end]
        if pod < 4:
            rnd.choice([add, add, remove])(index, pod, some, tier)
            if rnd.random() < 0.1:
                index.remove_lane(pod)
        elif rnd.random() < 0.7:
            peer.add([int(key) ^ 1 for key in some], some.tolist(), [Entry(f"pod-{pod}", name)])
        else:
            for key in some.tolist():
                peer.evict(key ^ 1, [Entry(f"pod-{pod}", name)])
            if rnd.random() < 0.2:
                peer.clear(f"pod-{pod}")
        for chain in chains:
            found = index.match(chain)
            weighed = found.tier_blocks @ np.array([1.0, 0.8, 1, 1, 1])
            ours = dict(
                zip((f"pod-{worker}" for worker in found.workers.tolist()), weighed.tolist(), strict=True)
            )
            assert ours == pytest.approx(peer.scores(chain.tolist(), WEIGHTS))


def test_a_reader_of_llm_d_s_index_scores_as_llm_d_does(opens: Opens, peer: LlmdPeer) -> None:
    index = opens(LaneNames(discovers=True))
    reader = LlmdReader(index, model=MODEL, block_size=16)
    assert reader.score(PROMPT) == {}
    peer.add([1, 2], KEYS.tolist(), [Entry("10.0.0.1:8000"), Entry("b", "cpu", HasGroup=True, GroupIdx=2)])
    peer.add(None, KEYS[:1].tolist(), [Entry("c", "nvme"), Entry("d@dp1", "", Speculative=True)])
    scores = reader.score(PROMPT)
    expected = peer.scores(KEYS.tolist(), WEIGHTS)
    assert expected == {"10.0.0.1:8000": 2.0, "b": 1.6, "c": 1.0, "d@dp1": 1.0}
    assert dict(scores) == pytest.approx({pod.removesuffix("@dp1"): score for pod, score in expected.items()})
    assert dict(reader.score(PROMPT, pods="c")) == {"c": 1.0}
    views = reader.fleet.views(MODEL)
    assert {(view.state, view.doubts) for view in views} == {("BLIND", (NOBODY_VOUCHES,))}
    assert {(view.pod, view.rank) for view in views} >= {("d", 1), ("c", 0)}
    assert index.statistics()[0]["unknown_tiers"] == 1


def test_a_lora_has_keys_of_its_own(opens: Opens, peer: LlmdPeer) -> None:
    reader = LlmdReader(opens(LaneNames(discovers=True)), model=MODEL, block_size=16)
    keys = kvatlas.block_keys(PROMPT, model="sql-lora", block_size=16, algorithm="fnv64a_cbor").tolist()
    peer.add(None, keys, [Entry("a")])
    assert dict(reader.score(PROMPT, lora="sql-lora")) == {"a": 2.0}
    assert dict(reader.score(PROMPT)) == {}


def test_nothing_is_written_of_a_delta_that_names_a_lane_without_a_name(
    opens: Opens, redis_server: RedisServer
) -> None:
    index = opens()
    with pytest.raises(InputError, match="lane 900"):
        tell(index, Record(ADD, 0, 1, (5,)), Record(ADD, 900, 1, (5,)))
    assert redis_server.command("DBSIZE") == 0


def test_lanes_of_stores_are_left_out_and_counted(opens: Opens, redis_server: RedisServer) -> None:
    index = opens()
    index.names.leave_out(900)
    tell(index, Record(ADD, 900, 8, (5, 6)))
    assert redis_server.command("DBSIZE") == 0
    assert index.statistics()[0]["left_out_blocks"] == 2


def test_the_page_of_the_format_names_every_counter(opens: Opens) -> None:
    page = (Path(__file__).parents[4] / "docs" / "llmd_format.md").read_text()
    table = page[page.index("## Bounds and counters") :]
    named = {name for row in table.splitlines() if row.startswith("| `") for name in row.split("`")[1:4:2]}
    assert {name for name in named if name.isidentifier()} - {"fields_max"} == set(opens().statistics()[0])
