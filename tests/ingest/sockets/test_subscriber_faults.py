"""Hostile and broken peers: the process lives, its memory is bounded, the others are heard."""

from __future__ import annotations

import itertools
import logging
import os
import random
from collections.abc import Iterable, Iterator

import pytest

from kvatlas import Atlas, AtlasConfig
from kvatlas.ingest.simulator.event_encoder import encode_batch
from kvatlas.ingest.simulator.publisher import SimulatedPublisher
from kvatlas.ingest.simulator.server import SimulatedServer
from kvatlas.ingest.sockets.source_config import SourceConfig
from kvatlas.ingest.sockets.subscriber import Subscriber
from kvatlas.ingest.sockets.subscriber_config import SubscriberConfig
from kvatlas.ingest.sockets.subscriber_statistics import SubscriberStatistics
from kvatlas.ingest.stream.limits import StreamLimits
from tests.ingest.sockets.subscriber_peers import END, RawPublisher, Script, ScriptedReplay, reply
from tests.ingest.zmq_peers import WAIT_S, Peers, number

MODEL = "m"
TOPIC = b"kv@bad@m"
EMPTY = encode_batch([], timestamp_s=1.0, data_parallel_rank=0)
QUICK = StreamLimits(
    confirm_after_s=0.2, retry_s_min=0.02, retry_s_max=0.1, answer_s_max=0.3, replay_s_max=1.0
)
PROMPT = list(range(1000, 1160))


@pytest.fixture
def peers() -> Iterator[Peers]:
    made = Peers()
    yield made
    made.close()


@pytest.fixture
def atlas() -> Iterator[Atlas]:
    made = Atlas(AtlasConfig(stream=QUICK))
    yield made
    made.close()


@pytest.fixture
def good() -> Iterator[SimulatedServer]:
    with SimulatedServer("good", MODEL, block_size=16, blocks=64) as server:
        yield server


def source_of(publisher: SimulatedPublisher) -> SourceConfig:
    return SourceConfig(endpoint=publisher.endpoint, replay_endpoint=publisher.replay_endpoint)


def state(atlas: Atlas, pod: str) -> str | None:
    return {worker.pod: worker.truth.state for worker in atlas.statistics().workers}.get(pod)


def is_heard(subscriber: Subscriber, atlas: Atlas, good: SimulatedServer) -> bool:
    """Whether the good server's next request reaches the atlas, and it is EXACT."""
    good.serve(PROMPT)

    def look(_: SubscriberStatistics) -> bool:
        return state(atlas, "good") == "EXACT" and atlas.score(PROMPT, model=MODEL).get("good", 0.0) > 0

    return subscriber.wait_until(look, WAIT_S)


def test_garbage_of_every_kind_is_counted_said_once_and_survived(
    peers: Peers, atlas: Atlas, good: SimulatedServer, caplog: pytest.LogCaptureFixture
) -> None:
    dice = random.Random(1)
    bad, publisher = RawPublisher(peers), good.listen()
    with caplog.at_level(logging.WARNING), Subscriber(atlas, [bad.endpoint, source_of(publisher)]) as heard:
        bad.wait_for_subscriber()
        publisher.wait_for_subscribers()
        for _ in range(2000):
            frames = [dice.randbytes(dice.choice((0, 1, 7, 8, 9, 100))) for _ in range(dice.randrange(1, 6))]
            bad.socket.send_multipart(frames)
            bad.publish(TOPIC, dice.randbytes(dice.randrange(200)))
        bad.socket.send_multipart([TOPIC, number(2**63), EMPTY])
        bad.socket.send_multipart([TOPIC, number(0), EMPTY])
        bad.socket.send_multipart([b"kv@" + b"x" * (1 << 20), number(0), EMPTY])
        bad.publish(b"kv@last@m", EMPTY)
        assert heard.wait_until(lambda _: state(atlas, "last") is not None, WAIT_S)
        assert is_heard(heard, atlas, good)
        statistics = heard.statistics().sources[0]
    assert statistics.bad_frames > 500 and statistics.bad_sequence > 100 and statistics.refused > 500
    complaints = [
        r for r in caplog.records if r.name.endswith("sockets.source") and bad.endpoint in r.message
    ]
    assert len(complaints) == 3
    assert all(len(record.message) < 500 for record in complaints)


def test_a_jump_of_half_the_numbers_is_a_gap_and_no_loop(peers: Peers, atlas: Atlas) -> None:
    publisher = RawPublisher(peers)
    with Subscriber(atlas, [publisher.endpoint]) as subscriber:
        publisher.wait_for_subscriber()
        for seq in (0, 2**63, 2**64 - 2, 5):
            publisher.socket.send_multipart([TOPIC, number(seq), EMPTY])
        assert subscriber.wait_until(lambda s: s.batches == 4, WAIT_S)
        worker = atlas.statistics().workers[0]
        assert worker.sequence == 5 and worker.restarts == 1


def test_topics_without_end_make_no_workers_without_end(peers: Peers, good: SimulatedServer) -> None:
    atlas = Atlas(AtlasConfig(workers_max=50, stream=QUICK))
    publisher, server = RawPublisher(peers), good.listen()
    with Subscriber(atlas, [source_of(server), publisher.endpoint]) as subscriber:
        server.wait_for_subscribers()
        assert is_heard(subscriber, atlas, good)
        publisher.wait_for_subscriber()
        for n in range(500):
            publisher.publish(b"kv@pod-%d@m" % n, EMPTY)
        assert subscriber.wait_until(lambda s: s.batches + s.refused >= 501, WAIT_S)
        assert len(atlas.statistics().workers) == 50
        assert is_heard(subscriber, atlas, good)


Replies = Iterable[list[bytes]]


def silent(start: int) -> Replies:
    return ()


def endless(start: int) -> Replies:
    return (reply(TOPIC, seq, EMPTY) for seq in itertools.count(start))


def standing(start: int) -> Replies:
    return itertools.repeat(reply(TOPIC, start, EMPTY))


def backwards(start: int) -> Replies:
    return [*(reply(TOPIC, seq, EMPTY) for seq in range(start + 5, start, -1)), END]


def another_pods(start: int) -> Replies:
    return [*(reply(b"kv@good@m", seq, EMPTY) for seq in range(start, start + 5)), END]


def short_numbers(start: int) -> Replies:
    return [[b"", TOPIC, bytes(7), EMPTY], END]


def too_many_frames(start: int) -> Replies:
    return [[b"", TOPIC, number(start), EMPTY, b"more"], END]


def garbage(start: int) -> Replies:
    return [*(reply(TOPIC, seq, b"\xc1 garbage") for seq in range(start, start + 5)), END]


SCRIPTS = (silent, endless, standing, backwards, another_pods, short_numbers, too_many_frames, garbage)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_a_replay_socket_that_misbehaves_leaves_others_alone_and_its_worker_in_doubt(
    peers: Peers, atlas: Atlas, good: SimulatedServer, script: Script
) -> None:
    bad, publisher = RawPublisher(peers), good.listen()
    with ScriptedReplay(peers, script, breaks_off=True) as replay:
        config = SubscriberConfig(replay_bytes_max=4 << 20)
        with Subscriber(atlas, [source_of(publisher)], config) as subscriber:
            publisher.wait_for_subscribers()
            assert is_heard(subscriber, atlas, good)
            subscriber.add(SourceConfig(endpoint=bad.endpoint, replay_endpoint=replay.endpoint))
            bad.wait_for_subscriber()
            bad.seq = 3
            bad.publish(TOPIC, EMPTY)
            assert subscriber.wait_until(lambda _: len(replay.starts) >= 3, WAIT_S), "it is asked again"
            bad.publish(TOPIC, EMPTY)
            assert is_heard(subscriber, atlas, good)
            assert subscriber.statistics().replay.waiting_bytes <= (4 << 20) + 1000
            assert state(atlas, "bad") != "EXACT"


def test_peers_that_never_answer_do_not_take_all_turns(
    peers: Peers, atlas: Atlas, good: SimulatedServer
) -> None:
    bad = [RawPublisher(peers) for _ in range(6)]
    publisher = good.listen()
    good.serve(PROMPT)
    with ScriptedReplay(peers, silent) as replay:
        sources = [SourceConfig(endpoint=one.endpoint, replay_endpoint=replay.endpoint) for one in bad]
        config = SubscriberConfig(replays_at_once=2)
        with Subscriber(atlas, sources, config) as subscriber:
            assert subscriber.wait_until(lambda s: s.replay.obsolete + s.replay.failed >= 2, WAIT_S)
            subscriber.add(source_of(publisher))
            assert is_heard(subscriber, atlas, good)
            assert subscriber.statistics().replay.in_flight <= 2


def test_two_publishers_that_claim_one_pod_are_told_of_and_not_mixed(
    peers: Peers, atlas: Atlas, good: SimulatedServer
) -> None:
    publisher, impostor = good.listen(), RawPublisher(peers)
    with Subscriber(atlas, [source_of(publisher)]) as subscriber:
        publisher.wait_for_subscribers()
        assert is_heard(subscriber, atlas, good)
        subscriber.add(impostor.endpoint)
        impostor.wait_for_subscriber()
        for _ in range(20):
            impostor.publish(b"kv@good@m", EMPTY)
        assert subscriber.wait_until(lambda s: s.sources[1].batches == 20, WAIT_S)
        (worker,) = atlas.statistics().workers
        assert worker.truth.state == "DEGRADED"
        assert "contested" in [reason.name for reason in worker.truth.reasons]
        assert atlas.score(PROMPT, model=MODEL)["good"] > 0


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_a_flood_of_answers_costs_no_more_memory_than_its_bound(peers: Peers) -> None:
    big = encode_batch([], timestamp_s=1.0, data_parallel_rank=0) + bytes(100_000)
    atlas = Atlas(AtlasConfig(stream=StreamLimits(retry_s_min=0.01)))

    def flood(start: int) -> Replies:
        return (reply(TOPIC, seq, big) for seq in itertools.count(start))

    bad, limit_bytes, most_bytes = RawPublisher(peers), 8 << 20, 0
    with ScriptedReplay(peers, flood, breaks_off=True) as replay:
        source = SourceConfig(endpoint=bad.endpoint, replay_endpoint=replay.endpoint)
        config = SubscriberConfig(replay_bytes_max=limit_bytes, replay_messages_max=100)
        with Subscriber(atlas, [source], config) as subscriber:
            assert subscriber.wait_until(lambda s: s.replay.replies >= 100, WAIT_S)
            before = resident_bytes()

            def look(statistics: SubscriberStatistics) -> bool:
                nonlocal most_bytes
                most_bytes = max(most_bytes, resident_bytes() - before)
                return statistics.replay.replies >= 5000  # 500 MB

            assert subscriber.wait_until(look, 100)
    assert most_bytes < 200 << 20, "both ends of the connection and the allocator's rest included"
