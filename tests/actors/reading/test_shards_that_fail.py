"""Shards that vanish, pause, lie elsewhere or are not whole: answers go on, and say what they lack."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kvatlas.actors.link.server import LinkServer
from kvatlas.actors.orders import Layout, Replica
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.index._native import route
from tests.actors.link.link_peers import wait_until
from tests.actors.reading.shard_process import TableProcess
from tests.actors.reading.small_cluster import (
    BLOCKS,
    ELSEWHERE,
    HERE,
    KEYS,
    PROMPT,
    ShardAtHand,
    SmallCluster,
    ask,
    holding_prompt,
    how,
)

HURRIED = ReaderSettings(fetch_s_max=1.0, view_wait_s=0.05, table_age_s_max=1.0)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    made = holding_prompt(tmp_path)
    yield made
    made.close()


@pytest.mark.slow
def test_a_shard_that_is_closed_counts_as_empty_until_another_takes_its_place(cluster: SmallCluster) -> None:
    reader = cluster.reader()
    assert ask(reader)["a"] == BLOCKS
    cluster.shards[1].close()
    left = ask(reader)
    assert not left.is_whole
    assert left.get("a", 0.0) < BLOCKS, "both shards hold a part of the prompt"
    cluster.shards[1] = ShardAtHand(1, 1, next(cluster.incarnations), cluster.folder)
    cluster.show()
    wait_until(lambda: "missing" not in how(reader) and how(reader) == ["attached", "attached"])
    assert not ask(reader).is_whole, "the new one has nothing yet"
    cluster.feed()
    wait_until(lambda: ask(reader).is_whole)
    assert ask(reader)["a"] == BLOCKS


@pytest.mark.slow
def test_another_replica_on_the_node_is_taken_when_one_is_closed(cluster: SmallCluster) -> None:
    first = cluster.shards[0]
    second = ShardAtHand(1, 0, next(cluster.incarnations), cluster.folder)
    reader = cluster.reader()
    assert ask(reader)["a"] == BLOCKS
    cluster.shards[0] = second
    cluster.feed()
    layout = cluster.layout()
    both = Layout(number=1, n_shards=2, replicas=(*layout.replicas, first.replica(HERE)))
    cluster.board.show(both, [cluster.part()])
    reader = cluster.reader()
    ask(reader)
    second.close()
    assert ask(reader).is_whole
    assert ask(reader)["a"] == BLOCKS
    assert how(reader) == ["attached", "attached"]
    first.close()


def test_a_table_that_cannot_be_attached_to_is_asked_for(cluster: SmallCluster, tmp_path: Path) -> None:
    """Containers of one node may have a shared memory each."""
    replicas = [shard.replica(HERE) for shard in cluster.shards]
    hidden = msgspec.structs.replace(replicas[0], path=str(tmp_path / "nothing here"))
    cluster.board.show(Layout(number=1, n_shards=2, replicas=(hidden, replicas[1])), [cluster.part()])
    reader = cluster.reader()
    assert ask(reader)["a"] == BLOCKS
    assert ask(reader).is_whole
    assert how(reader) == ["asked", "attached"]
    assert reader.status().counts["failed_attaches"] == 1


def test_tables_in_private_memory_are_asked_for(cluster: SmallCluster) -> None:
    private = ShardAtHand(1, 0, next(cluster.incarnations), None)
    cluster.shards[0].close()
    cluster.shards[0] = private
    cluster.feed()
    reader = cluster.reader()
    assert (ask(reader)["a"], how(reader)) == (BLOCKS, ["asked", "attached"])


@pytest.mark.slow
def test_a_shard_that_does_not_answer_is_waited_for_once(cluster: SmallCluster) -> None:
    reader = cluster.reader(ELSEWHERE, HURRIED)
    assert ask(reader)["a"] == BLOCKS
    cluster.shards[0].server.close()
    assert not ask(reader).is_whole
    fetches = reader.status().counts["failed_fetches"]
    for _ in range(20):
        assert not ask(reader).is_whole
    counts = reader.status().counts
    assert counts["refused_fetches"] >= 20, "nobody waits for what is known to be down"
    assert counts["failed_fetches"] - fetches <= 20
    assert "no connection" in reader.status().shards[0].says or "broke" in reader.status().shards[0].says


@pytest.mark.slow
def test_a_shard_that_answers_again_is_found_by_itself(cluster: SmallCluster) -> None:
    """Its server is closed and opened at the same endpoint, as when a network is cut for a while."""
    reader = cluster.reader(ELSEWHERE, HURRIED)
    assert ask(reader).is_whole
    shard = cluster.shards[0]
    endpoint = shard.server.endpoint
    shard.server.close()
    assert not ask(reader).is_whole
    shard.server = LinkServer(shard.service.handle, KEYS, endpoint)
    wait_until(lambda: ask(reader).is_whole)
    assert ask(reader)["a"] == BLOCKS


@pytest.mark.slow
def test_an_incarnation_that_is_not_there_any_more_is_told_apart(cluster: SmallCluster) -> None:
    """Another process at the endpoint of an old one fences what is meant for that."""
    reader = cluster.reader(ELSEWHERE, HURRIED)
    wait_until(lambda: ask(reader).is_whole)
    newer = ShardAtHand(1, 0, next(cluster.incarnations), cluster.folder)
    misled = msgspec.structs.replace(cluster.shards[0].replica(ELSEWHERE), endpoint=newer.server.endpoint)
    other = cluster.shards[1].replica(ELSEWHERE)
    cluster.board.show(Layout(number=1, n_shards=2, replicas=(misled, other)), [cluster.part()])
    wait_until(lambda: not ask(reader).is_whole and "FENCED" in reader.status().shards[0].says)
    newer.close()


class OneTable:
    """A cluster of one shard whose table another process writes, and which has no socket."""

    def __init__(self, cluster: SmallCluster, path: Path) -> None:
        records = b"".join(content.records for content in cluster.mirror.content())
        self.writer = TableProcess(path, route(records, 1)[0])
        self.cluster = cluster
        self.show(self.writer, 500)

    def show(self, writer: TableProcess, incarnation: int) -> None:
        replica = Replica(
            shard=0, replica=0, incarnation=incarnation, node_id=HERE, endpoint="tcp://127.0.0.1:9",
            path=writer.path, whole=True,
        )  # fmt: skip
        layout = Layout(number=1, n_shards=1, replicas=(replica,))
        self.cluster.board.show(layout, [self.cluster.part()])


@pytest.fixture
def one(cluster: SmallCluster, tmp_path: Path) -> Iterator[OneTable]:
    made = OneTable(cluster, tmp_path / "written elsewhere")
    yield made
    made.writer.go_on()
    made.writer.kill()


@pytest.mark.slow
def test_a_writer_that_is_killed_is_noticed_by_its_silence(one: OneTable, tmp_path: Path) -> None:
    reader = one.cluster.reader(HERE, HURRIED)
    assert ask(reader).is_whole
    one.writer.kill()
    wait_until(lambda: not ask(reader).is_whole)
    assert dict(ask(reader)) == {}
    assert reader.status().counts["stale_tables"] >= 1
    newer = OneTable(one.cluster, tmp_path / "its successor")
    newer.show(newer.writer, 501)
    wait_until(lambda: ask(reader).is_whole)
    assert ask(reader)["a"] == BLOCKS
    newer.writer.end()


@pytest.mark.slow
def test_a_writer_that_is_paused_is_not_believed_until_it_goes_on(one: OneTable) -> None:
    reader = one.cluster.reader(HERE, HURRIED)
    assert ask(reader).is_whole
    one.writer.pause()
    wait_until(lambda: not ask(reader).is_whole)
    assert dict(ask(reader)) == {}
    one.writer.go_on()
    wait_until(lambda: ask(reader).is_whole)
    assert ask(reader)["a"] == BLOCKS


def test_a_layout_without_processes_answers_nothing_and_says_so(cluster: SmallCluster) -> None:
    cluster.board.show(Layout(number=1, n_shards=4, replicas=()), [cluster.part()])
    reader = cluster.reader()
    assert (dict(ask(reader)), ask(reader).is_whole) == ({}, False)
    assert how(reader) == ["missing"] * 4
    explanation = reader.explain(PROMPT, model="m")
    assert "not whole" in explanation.note
    assert reader.score(PROMPT[:3], model="m").is_whole, "a prompt without a block touches no shard"


@pytest.mark.slow
def test_a_layout_of_more_shards_is_followed(cluster: SmallCluster) -> None:
    reader = cluster.reader()
    assert ask(reader)["a"] == BLOCKS
    old = cluster.shards
    cluster.shards = [ShardAtHand(2, n, next(cluster.incarnations), cluster.folder) for n in range(5)]
    cluster.nodes = [HERE] * 5
    cluster.feed()
    for shard in old:
        shard.close()
    wait_until(lambda: len(reader.status().shards) == 5)
    assert (ask(reader)["a"], ask(reader).is_whole) == (BLOCKS, True)


SHORT_OF_MEMORY = """
import resource
import numpy as np
from kvatlas.actors.link.messages import Address, decode_message, excerpted, fetch
from kvatlas.actors.reading.fetcher import Fetched
from kvatlas.actors.reading.shard_sources import ShardSources, TablesIndex
from kvatlas.index._native import Roster, Table, excerpt

keys = np.arange(1, (1 << 20) + 1, dtype=np.uint64)
asked = decode_message(fetch(Address(1, 0, 1), keys[:1]))
answer = decode_message(excerpted(asked, excerpt(Table(budget_bytes=4 << 20), keys), whole=True))
fetched, index = Fetched(None, keys, answer), TablesIndex(ShardSources(1, {}, {}), Roster())
assert index.with_fetched({0: Fetched(None, keys, answer)}).match(keys[:9]).is_whole
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20),) * 2)
matches = index.with_fetched({0: fetched}).match(keys[:9])
assert (len(matches.workers), matches.is_whole) == (0, False), matches
"""


@pytest.mark.slow
@pytest.mark.skipif("san.so" in os.environ.get("LD_PRELOAD", ""), reason="sanitizers need address space")
def test_an_answer_that_there_is_no_memory_for_counts_as_none() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
