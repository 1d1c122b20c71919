"""Choices over the reader of a cluster: wherever its shards lie, and whatever of it is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kvatlas.actors.choosing.cluster_looker import ClusterLooker
from kvatlas.actors.choosing.reuse_feedback import ReuseFeedback
from kvatlas.actors.reading.cluster_reader import ClusterReader
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.index.choosing.chooser import Chooser
from tests.actors.link.link_peers import wait_until
from tests.actors.reading.small_cluster import (
    BLOCKS,
    ELSEWHERE,
    HERE,
    PROMPT,
    SmallCluster,
    ask,
    holding_prompt,
)

TOKENS = int(BLOCKS) * 16


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    made = holding_prompt(tmp_path)
    yield made
    made.close()


def chooser_over(reader: ClusterReader) -> Chooser:
    return Chooser(ClusterLooker(reader, ReuseFeedback()))


@pytest.mark.parametrize("node", [HERE, ELSEWHERE])
def test_a_look_finds_what_scores_do_wherever_the_shards_lie(cluster: SmallCluster, node: str) -> None:
    reader = cluster.reader(node)
    scores = ask(reader)
    for look in (reader.look(PROMPT, model="m"), asyncio.run(reader.look_async(PROMPT, model="m"))):
        (number,) = look.matches.workers.tolist()
        assert look.fleet.names[number] == ("a", 0)
        assert look.matches.blocks.tolist() == [BLOCKS] == [scores["a"]]
        assert look.matches.is_whole
        assert look.version == reader.look(b"", model="m").version


@pytest.mark.parametrize("node", [HERE, ELSEWHERE])
def test_choices_are_the_same_wherever_the_shards_lie(cluster: SmallCluster, node: str) -> None:
    chooser = chooser_over(cluster.reader(node))
    ids = np.array(PROMPT, np.uint32).tobytes()
    choices = [
        chooser.choose(ids, model="m", reserve=False),
        asyncio.run(chooser.choose_async(ids, model="m", reserve=False)),
    ]
    assert {(choice.pod, choice.cached_tokens, choice.reason) for choice in choices} == {("a", TOKENS, "")}


@pytest.mark.slow
def test_a_shard_that_is_missing_is_said_in_the_choice(cluster: SmallCluster) -> None:
    cluster.nodes = [HERE, ELSEWHERE]
    cluster.show()
    reader = cluster.reader(settings=ReaderSettings(fetch_s_max=0.2, view_wait_s=0.5, table_age_s_max=60.0))
    chooser = chooser_over(reader)
    assert chooser.choose(PROMPT, model="m", reserve=False).reason == ""
    cluster.shards[1].server.close()
    wait_until(lambda: not ask(reader).is_whole)
    choice = chooser.choose(PROMPT, model="m", reserve=False)
    assert choice.pod == "a" and choice.cached_tokens < TOKENS
    assert choice.reason != ""


def test_versions_change_with_the_workers_and_with_trust_in_them(cluster: SmallCluster) -> None:
    now = [0.0]
    reader = cluster.reader(view_s_max=5.0, clock_s=lambda: now[0])
    version = reader.look(b"", model="m").version
    cluster.board.silence()
    now[0] = 100.0
    distrusted = reader.look(b"", model="m")
    assert distrusted.version != version
    assert {view.state for view in distrusted.fleet.views("m")} == {"DEGRADED"}


def test_a_receipt_says_how_old_the_view_was_at_the_choice(cluster: SmallCluster) -> None:
    now = [0.0]
    reader = cluster.reader(view_s_max=5.0, clock_s=lambda: now[0])
    chooser = chooser_over(reader)
    cluster.board.silence()
    assert reader.look(b"", model="m").age_s == 0
    for now_s in (3.0, 100.0):
        now[0] = now_s
        chooser.choose(PROMPT, model="m", request_id=f"at {now_s}")
    now[0] = 200.0
    for now_s in (3.0, 100.0):
        assert chooser.receipt(f"at {now_s}").view_age_s == pytest.approx(now_s)


def test_another_reader_never_has_the_versions_of_the_first(cluster: SmallCluster) -> None:
    first, second = cluster.reader(), cluster.reader()
    assert first.look(b"", model="m").version != second.look(b"", model="m").version
    assert first.serving_version != second.serving_version
    assert first.serving_pods() == second.serving_pods()


def test_a_reader_without_a_view_yet_knows_no_pods_and_does_not_wait(cluster: SmallCluster) -> None:
    cluster.board.silence()
    reader = cluster.reader()
    assert tuple(reader.known_pods) == () and reader.routers == ()
    assert reader.subscriber_of("a") is None
    cluster.board.silence(False)
    reader.wait_ready(60)
    assert tuple(reader.known_pods) == ("a",)
    assert reader.subscriber_of("a") == "0"
