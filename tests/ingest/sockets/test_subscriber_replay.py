"""Losses that heal: a subscriber and its atlas against simulated servers with replay sockets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq

from kvatlas import Atlas, AtlasConfig
from kvatlas.ingest.simulator.publisher import SimulatedPublisher
from kvatlas.ingest.simulator.server import SimulatedServer
from kvatlas.ingest.sockets.source_config import SourceConfig
from kvatlas.ingest.sockets.subscriber import Subscriber
from kvatlas.ingest.sockets.subscriber_config import SubscriberConfig
from kvatlas.ingest.sockets.subscriber_statistics import SubscriberStatistics
from kvatlas.ingest.stream.limits import StreamLimits
from tests.ingest.zmq_peers import WAIT_S
from tests.servers.redis_server import wait_until

MODEL = "m"
QUICK = StreamLimits(confirm_after_s=0.2, confirm_every_s=0.5, retry_s_min=0.02, answer_s_max=1.0)


@pytest.fixture
def atlas() -> Iterator[Atlas]:
    made = Atlas(AtlasConfig(stream=QUICK))
    yield made
    made.close()


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def new_server(opened: ExitStack, pod: str = "pod-a", *, rank: int | None = None) -> SimulatedServer:
    return opened.enter_context(
        SimulatedServer(pod, MODEL, block_size=16, blocks=256, data_parallel_rank=rank)
    )


def source_of(publisher: SimulatedPublisher) -> SourceConfig:
    return SourceConfig(endpoint=publisher.endpoint, replay_endpoint=publisher.replay_endpoint)


def prompt(number: int) -> list[int]:
    return list(range(number * 1000, number * 1000 + 160))


def holds(atlas: Atlas, pod: str, *numbers: int) -> Callable[[SubscriberStatistics], bool]:
    """Whether the pod is EXACT and holds exactly these prompts."""

    def look(_: SubscriberStatistics) -> bool:
        workers = [w for w in atlas.statistics().workers if w.pod == pod]
        scores = [
            atlas.score(prompt(n), model=MODEL, strategy="longest_prefix").get(pod, 0.0) for n in numbers
        ]
        return (
            [w.truth.state for w in workers] == ["EXACT"]
            and workers[0].blocks["gpu"] == 10 * len(numbers)
            and scores == [10.0] * len(numbers)
        )

    return look


def test_a_late_join_hears_all_that_was_said_before_even_while_the_server_is_idle(
    atlas: Atlas, opened: ExitStack
) -> None:
    server = new_server(opened)
    publisher = server.listen()
    for number in range(5):
        server.serve(prompt(number))
    with Subscriber(atlas, [source_of(publisher)]) as subscriber:
        assert subscriber.wait_until(holds(atlas, "pod-a", *range(5)), WAIT_S)
        assert subscriber.statistics().batches == 0


def test_a_server_without_a_topic_is_known_by_its_source_and_asked_before_it_speaks(
    atlas: Atlas, opened: ExitStack
) -> None:
    server = new_server(opened)
    publisher = server.attach(SimulatedPublisher(""))
    server.serve(prompt(1))
    source = SourceConfig(
        endpoint=publisher.endpoint, replay_endpoint=publisher.replay_endpoint, pod="my-pod", model=MODEL
    )
    with Subscriber(atlas, [source]) as subscriber:
        assert subscriber.wait_until(holds(atlas, "my-pod", 1), WAIT_S)


def is_settled(statistics: SubscriberStatistics) -> bool:
    """What is asked at first has been answered."""
    return statistics.replay.complete > 0 and statistics.replay.in_flight == 0


def test_a_gap_heals(opened: ExitStack) -> None:
    patient = StreamLimits(confirm_after_s=WAIT_S)  # nothing is asked but for the gap
    server, atlas = new_server(opened), Atlas(AtlasConfig(stream=patient))
    publisher = server.listen()
    with Subscriber(atlas, [source_of(publisher)]) as subscriber:
        publisher.wait_for_subscribers()
        assert subscriber.wait_until(is_settled, WAIT_S)
        server.serve(prompt(0))
        assert subscriber.wait_until(holds(atlas, "pod-a", 0), WAIT_S)
        publisher.lose(3)
        for number in range(1, 6):
            server.serve(prompt(number))
        assert subscriber.wait_until(holds(atlas, "pod-a", *range(6)), WAIT_S)
        assert atlas.statistics().workers[0].gaps == 1


def test_a_tail_that_was_lost_is_found_while_the_server_idles(atlas: Atlas, opened: ExitStack) -> None:
    server = new_server(opened)
    publisher = server.listen()
    with Subscriber(atlas, [source_of(publisher)]) as subscriber:
        publisher.wait_for_subscribers()
        server.serve(prompt(0))
        assert subscriber.wait_until(holds(atlas, "pod-a", 0), WAIT_S)
        assert subscriber.wait_until(is_settled, WAIT_S)
        publisher.lose(1)
        server.serve(prompt(1))
        assert subscriber.wait_until(holds(atlas, "pod-a", 0, 1), WAIT_S)


@pytest.mark.parametrize("reopen", [True, False])
def test_a_server_that_restarts_is_followed(atlas: Atlas, opened: ExitStack, reopen: bool) -> None:
    server = new_server(opened)
    publisher = server.listen()
    with Subscriber(atlas, [source_of(publisher)]) as subscriber:
        publisher.wait_for_subscribers()
        for number in range(3):
            server.serve(prompt(number))
        assert subscriber.wait_until(holds(atlas, "pod-a", 0, 1, 2), WAIT_S)
        server.restart(reopen=reopen)
        for number in range(10, 15):  # overtakes the old number, perhaps before anybody listens
            server.serve(prompt(number))
        assert subscriber.wait_until(holds(atlas, "pod-a", *range(10, 15)), WAIT_S)
        assert atlas.statistics().workers[0].restarts == 1


def test_pods_that_dial_one_socket_each_have_their_replay_socket_by_template(
    atlas: Atlas, opened: ExitStack, tmp_path: Path
) -> None:
    template = f"ipc://{tmp_path}/{{pod}}-{{rank}}"
    source = SourceConfig(endpoint="tcp://127.0.0.1:*", bind=True, replay_endpoint=template)
    with Subscriber(atlas, [source]) as subscriber:
        (endpoint,) = subscriber.endpoints
        servers = [new_server(opened, f"pod-{number}") for number in range(4)]
        publishers = [
            server.listen(endpoint=endpoint, replay_endpoint=f"ipc://{tmp_path}/{server.pod}-0")
            for server in servers
        ]
        for server, publisher in zip(servers, publishers, strict=True):
            server.serve(prompt(0))
            publisher.wait_for_subscribers()
            publisher.lose(1)
            server.serve(prompt(1))
            server.serve(prompt(2))
        for server in servers:
            assert subscriber.wait_until(holds(atlas, server.pod, 0, 1, 2), WAIT_S), server.pod


def test_only_pods_of_the_map_are_asked(atlas: Atlas, opened: ExitStack) -> None:
    known, other = new_server(opened, "known"), new_server(opened, "other")
    with Subscriber(atlas) as subscriber:
        replay = known.listen().replay_endpoint
        assert replay is not None
        known.close()
        endpoint = subscriber.add(
            SourceConfig(endpoint="tcp://127.0.0.1:*", bind=True, replay_endpoints={"known": replay})
        )
        for server in (known, other):
            publisher = server.listen(
                endpoint=endpoint, replay_endpoint=replay if server is known else "tcp://127.0.0.1:*"
            )
            publisher.wait_for_subscribers()
            publisher.lose(1)
            server.serve(prompt(0))
            server.serve(prompt(1))
        assert subscriber.wait_until(holds(atlas, "known", 0, 1), WAIT_S)
        assert subscriber.wait_until(lambda s: s.batches == 2, WAIT_S)
        states = {worker.pod: worker.truth.state for worker in atlas.statistics().workers}
        assert states["other"] != "EXACT"
        assert subscriber.statistics().replay.failed == 0


def test_more_questions_than_may_be_asked_at_once_wait_for_their_turn(
    atlas: Atlas, opened: ExitStack
) -> None:
    servers = [new_server(opened, f"pod-{number}") for number in range(12)]
    sources = []
    for server in servers:
        sources.append(source_of(server.listen()))
        server.serve(prompt(3))
    with Subscriber(atlas, sources, SubscriberConfig(replays_at_once=1)) as subscriber:
        for server in servers:
            assert subscriber.wait_until(holds(atlas, server.pod, 3), WAIT_S), server.pod


def test_a_source_that_is_removed_takes_its_questions_along(atlas: Atlas, opened: ExitStack) -> None:
    server = new_server(opened)
    publisher = server.listen()
    server.serve(prompt(0))
    with Subscriber(atlas, [source_of(publisher)]) as subscriber:
        assert subscriber.wait_until(holds(atlas, "pod-a", 0), WAIT_S)
        subscriber.remove(publisher.endpoint)
        assert atlas.statistics().workers[0].truth.state != "EXACT"
        assert subscriber.statistics().replay.in_flight == 0
        subscriber.add(source_of(publisher))
        assert subscriber.wait_until(holds(atlas, "pod-a", 0), WAIT_S), "another source speaks for it"


@pytest.mark.slow
def test_256_pods_are_followed_by_two_threads_and_zeromqs_two(atlas: Atlas, opened: ExitStack) -> None:
    servers = [SimulatedServer(f"pod-{n}", MODEL, block_size=16, blocks=64) for n in range(256)]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 4096)
    opened.callback(context.term)
    sources = []
    for server in servers:
        publisher = SimulatedPublisher(server.topic, context=context)
        opened.callback(server.attach(publisher).close)
        server.serve(prompt(1))
        sources.append(source_of(publisher))
    before = threads()
    with Subscriber(atlas, sources) as subscriber:
        assert len(threads() - before) == 4
        assert subscriber.wait_until(lambda s: s.connections == 256, WAIT_S)
        for server in servers:
            server.serve(prompt(2))
        for server in servers:
            assert subscriber.wait_until(holds(atlas, server.pod, 1, 2), WAIT_S), server.pod
        assert subscriber.statistics().replay.failed == 0
    wait_until(lambda: not threads() - before)  # one that was joined is in the list for a moment more


def threads() -> set[str]:
    """Those of this process."""
    return set(os.listdir("/proc/self/task"))
