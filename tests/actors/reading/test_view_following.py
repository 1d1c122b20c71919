"""What readers make of what the directory says, and of its silence."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kvatlas.actors.orders import ReaderSecrets
from kvatlas.actors.reading.cluster_reader import ClusterReader
from kvatlas.index.errors import ClusterError
from tests.actors.link.link_peers import wait_until
from tests.actors.reading.small_cluster import ELSEWHERE, HERE, KEYS, SmallCluster
from tests.ingest.plain_batches import batch, stored

PROMPT = list(range(16 * 300))
BLOCKS = 299.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    made = SmallCluster(2, tmp_path)
    made.mirror.ingest(b"kv@a@m", 0, batch(stored(list(range(1, 301)), PROMPT)))
    made.feed()
    yield made
    made.close()


def truth(reader: ClusterReader) -> str:
    (match,) = reader.score(PROMPT, model="m").matches
    return match.truth


@pytest.mark.slow
def test_a_view_that_nobody_confirms_makes_every_worker_degraded_until_somebody_does(
    cluster: SmallCluster,
) -> None:
    clock = Clock()
    reader = cluster.reader(view_s_max=10.0, clock_s=clock)
    reader.wait_ready(60)
    assert truth(reader) == "EXACT"
    cluster.board.silence()
    wait_until(lambda: reader.status().counts.get("missed_views", 0) > 1)
    assert (truth(reader), reader.status().is_trusted) == ("EXACT", True)
    clock.now_s += 10.1
    assert (truth(reader), reader.status().is_trusted) == ("DEGRADED", False)
    assert reader.score(PROMPT, model="m")["a"] == BLOCKS, "answers go on"
    assert "has not confirmed" in reader.pods()[0].doubts[0]
    assert "has not confirmed" in reader.explain(PROMPT, model="m").workers[0].doubts[0]
    assert "silent" in reader.status().says
    cluster.board.silence(False)
    wait_until(lambda: truth(reader) == "EXACT")


def test_an_answer_that_waited_in_a_paused_process_confirms_nothing(cluster: SmallCluster) -> None:
    """It counts from when it was asked for, not from when it is looked at."""
    clock = Clock()
    asked = 0
    is_asked, may_answer, over = threading.Event(), threading.Event(), threading.Event()

    def fetch_view(since: int, wait_s: float) -> bytes:
        nonlocal asked
        asked += 1
        if asked == 2:
            is_asked.set()
            may_answer.wait(60)
        elif asked > 2:
            over.wait(60)
        return cluster.board.fetch(0, 0.0)

    reader = ClusterReader(fetch_view, cluster.secrets(10.0), node_id=HERE, clock_s=clock)
    assert truth(reader) == "EXACT"
    assert is_asked.wait(60)
    clock.now_s += 60
    may_answer.set()
    wait_until(lambda: asked == 3)
    assert reader.status().counts["views"] == 2
    assert truth(reader) == "DEGRADED"
    over.set()
    reader.close()


def test_workers_of_a_lost_subscriber_are_degraded_and_go_on_to_be_matched(cluster: SmallCluster) -> None:
    reader = cluster.reader()
    assert truth(reader) == "EXACT"
    cluster.board.show(cluster.layout(), [cluster.part(lost=True)])
    wait_until(lambda: truth(reader) == "DEGRADED")
    assert reader.score(PROMPT, model="m")["a"] == BLOCKS
    assert "subscriber is gone" in reader.pods()[0].doubts[0]


@pytest.mark.slow
def test_a_session_takes_the_place_of_another_in_one_step(cluster: SmallCluster) -> None:
    """Its workers have other numbers and lanes; a reader never sees none or both."""
    reader = cluster.reader()
    old = cluster.part()
    (view,) = old.part.workers
    newer = msgspec.structs.replace(
        old,
        session=2,
        part=msgspec.structs.replace(old.part, workers=(msgspec.structs.replace(view, number=77),)),
    )
    over, seen = threading.Event(), set[str]()

    def look() -> None:
        while not over.is_set():
            seen.add(repr(reader.score(PROMPT, model="m").matches))

    looking = threading.Thread(target=look)
    assert truth(reader) == "EXACT"
    looking.start()
    try:
        for parts in [[old], [newer]] * 20:
            version = cluster.board.show(cluster.layout(), parts)
            wait_until(lambda version=version: reader.status().view_version == version)  # type: ignore[misc]
    finally:
        over.set()
        looking.join()
    assert len(seen) == 1
    assert len(reader.pods()) == 1


def test_close_wakes_whoever_waits_and_later_reads_raise(cluster: SmallCluster) -> None:
    reader = cluster.reader()
    reader.wait_ready(60)
    reader.close()
    reader.close()
    with pytest.raises(ClusterError, match="closed"):
        reader.score(PROMPT, model="m")


@pytest.mark.slow
def test_a_reader_without_a_view_says_what_it_waits_for() -> None:
    def fetch_view(since: int, wait_s: float) -> bytes:
        raise ConnectionError("nobody there")

    secrets = ReaderSecrets(hash_seed="s", algorithm="fold64", tier_weights={}, keys=KEYS, view_s_max=10.0)
    reader = ClusterReader(fetch_view, secrets, node_id=HERE)
    with pytest.raises(ClusterError, match="nobody there"):
        reader.wait_ready(1)
    reader.close()


@pytest.mark.slow
def test_a_reader_that_nobody_holds_ends_its_thread(cluster: SmallCluster) -> None:
    def threads() -> int:
        return sum(thread.name == "cluster view" for thread in threading.enumerate())

    wait_until(lambda: threads() == 0)
    reader = ClusterReader(cluster.board.fetch, cluster.secrets(), node_id=HERE)
    reader.wait_ready(60)
    assert threads() == 1
    del reader
    gc.collect()
    cluster.show()
    wait_until(lambda: threads() == 0)


def test_a_cluster_that_was_started_anew_under_its_name_is_told_apart(cluster: SmallCluster) -> None:
    reader = cluster.reader()
    assert truth(reader) == "EXACT"
    cluster.board.show(cluster.layout(), [cluster.part()], cluster_id="another")
    wait_until(lambda: reader.is_superseded)


@pytest.mark.parametrize("node", [HERE, ELSEWHERE])
def test_event_loops_read_as_threads_do(cluster: SmallCluster, node: str) -> None:
    reader = cluster.reader(node)

    async def ask_all() -> list[object]:
        scores = await asyncio.gather(*(reader.score_async(PROMPT, model="m") for _ in range(50)))
        many = await reader.score_many_async([PROMPT, PROMPT[:160]], model="m")
        explanation = await reader.explain_async(PROMPT, model="m")
        return [*(one.matches for one in scores), [one.matches for one in many], explanation]

    found = asyncio.run(ask_all())
    expected = reader.score(PROMPT, model="m").matches
    assert found[:50] == [expected] * 50
    assert found[50] == [one.matches for one in reader.score_many([PROMPT, PROMPT[:160]], model="m")]
    assert found[51] == reader.explain(PROMPT, model="m")
    if node == ELSEWHERE:
        counts = reader.status().counts
        assert counts["fetches"] < counts["fetched_requests"], "those who wait go together"


@pytest.mark.slow
@pytest.mark.parametrize("node", [HERE, ELSEWHERE])
def test_threads_read_at_once_while_the_fleet_changes(cluster: SmallCluster, node: str) -> None:
    reader = cluster.reader(node)
    reader.wait_ready(60)
    wrong: list[object] = []

    def look() -> None:
        for _ in range(100):
            found = reader.score(PROMPT, model="m")
            if found.get("a") != BLOCKS or not set(found) <= {"a", "b"}:
                wrong.append(found)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(20):
        blocks = 16 * (n + 1)
        cluster.mirror.ingest(b"kv@b@m", n, batch(stored([1000 + n], PROMPT[blocks - 16 : blocks])))
        cluster.feed()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_scores_that_were_sent_say_what_those_here_say(cluster: SmallCluster) -> None:
    reader = cluster.reader()
    for salt in (None, "salt"):
        here = reader.score(PROMPT, model="m", cache_salt=salt)
        sent = pickle.loads(pickle.dumps(here))
        assert (sent.matches, dict(sent), repr(sent)) == (here.matches, dict(here), repr(here))
        assert (sent.prompt_blocks, sent.block_size_tokens, sent.slots_probed, sent.is_whole) == (
            here.prompt_blocks,
            here.block_size_tokens,
            here.slots_probed,
            here.is_whole,
        )
