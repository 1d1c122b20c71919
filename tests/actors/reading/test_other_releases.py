"""A release beside another: what it cannot read it leaves alone, and answers go on."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kvatlas.actors.link import messages
from kvatlas.actors.link.link import LinkSettings
from kvatlas.actors.link.messages import Kind, decode_message
from kvatlas.actors.link.server import LinkServer
from kvatlas.actors.orders import Layout
from tests.actors.link.link_peers import wait_until
from tests.actors.reading.small_cluster import (
    BLOCKS,
    ELSEWHERE,
    HERE,
    KEYS,
    ShardAtHand,
    SmallCluster,
    ask,
    holding_prompt,
    how,
)

VERSION_AT = 8
"""Of the control page: magic first, then the format's version as u32."""
WIRE_VERSION_AT = 4


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    made = holding_prompt(tmp_path)
    yield made
    made.close()


def of_other_format(shard: ShardAtHand) -> None:
    """As if a release with another format of tables had written it."""
    with Path(shard.service.path).open("r+b") as page:
        page.seek(VERSION_AT)
        (version,) = struct.unpack("<I", page.read(4))
        page.seek(VERSION_AT)
        page.write(struct.pack("<I", version + 1))


def speaking_otherwise(frame: bytes) -> bytes:
    """The frame as another version of the protocol would begin it."""
    return frame[:WIRE_VERSION_AT] + bytes([messages.VERSION + 1]) + frame[WIRE_VERSION_AT + 1 :]


def test_a_table_of_another_release_is_asked_for_by_messages(cluster: SmallCluster) -> None:
    of_other_format(cluster.shards[0])
    reader = cluster.reader()
    scores = ask(reader)
    assert (scores["a"], scores.is_whole) == (BLOCKS, True)
    assert how(reader) == ["asked", "attached"]


@pytest.mark.slow
def test_shards_are_exchanged_for_those_of_another_release_one_by_one(cluster: SmallCluster) -> None:
    reader = cluster.reader()
    for n in range(2):
        before = cluster.shards[n]
        after = ShardAtHand(1, n, next(cluster.incarnations), cluster.folder)
        of_other_format(after)
        cluster.shards[n] = after
        cluster.feed()
        wait_until(lambda n=n: how(reader)[n] == "asked")  # type: ignore[misc]
        assert (ask(reader)["a"], ask(reader).is_whole) == (BLOCKS, True)
        before.close()
    assert how(reader) == ["asked", "asked"]
    assert ask(reader)["a"] == BLOCKS


def test_a_shard_that_speaks_another_version_says_so_and_changes_nothing(cluster: SmallCluster) -> None:
    shard = cluster.shards[0]
    before = shard.service.table.statistics()["records"]
    told = messages.delta(shard.service.address, cluster.session, 99, b"")
    answer = decode_message(shard.service.handle(speaking_otherwise(told)))
    assert answer.kind is Kind.REFUSED
    assert f"version {messages.VERSION}" in answer.text and str(messages.VERSION + 1) in answer.text
    assert shard.service.table.statistics()["records"] == before


def test_without_a_common_version_the_shard_is_missing_and_answers_stay_sound(cluster: SmallCluster) -> None:
    old = cluster.shards[0]
    with LinkServer(
        lambda frame: speaking_otherwise(old.service.handle(frame)), KEYS, settings=LinkSettings()
    ) as server:
        replicas = [shard.replica(ELSEWHERE) for shard in cluster.shards]
        replicas[0] = msgspec.structs.replace(replicas[0], endpoint=server.endpoint)
        cluster.board.show(Layout(number=1, n_shards=2, replicas=tuple(replicas)), [cluster.part()])
        scores = ask(cluster.reader(HERE))
        assert not scores.is_whole
        assert scores.get("a", 0.0) < BLOCKS
