"""The subscriber's live sockets against real publishers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.conversation import Conversation
from kvatlas.ingest.feed import FeedNames, FeedRequest
from kvatlas.ingest.sockets.batch_sink import ReplayWanted
from kvatlas.ingest.sockets.source_config import SourceConfig
from kvatlas.ingest.sockets.subscriber import Subscriber
from kvatlas.ingest.sockets.subscriber_config import SubscriberConfig
from tests.ingest.sockets.subscriber_peers import (
    BROKEN,
    LOOPBACK,
    NO_BATCH,
    NotingFeed,
    NotingSink,
    RawPublisher,
)
from tests.ingest.zmq_peers import WAIT_S, Peers

TOPIC = b"kv@pod@model"
LISTENING = SourceConfig(endpoint=LOOPBACK, bind=True)


@pytest.fixture
def peers() -> Iterator[Peers]:
    made = Peers()
    yield made
    made.close()


def test_batches_arrive_in_the_order_of_their_publisher(peers: Peers) -> None:
    publisher, sink = RawPublisher(peers), NotingSink()
    with Subscriber(sink, [publisher.endpoint]) as subscriber:
        publisher.wait_for_subscriber()
        for number in range(1000):
            publisher.publish(TOPIC, b"%d" % number)
        assert subscriber.wait_until(lambda s: s.batches == 1000, WAIT_S)
    assert sink.batches == [(TOPIC, n, b"%d" % n) for n in range(1000)]
    assert subscriber.statistics().payload_bytes == sum(len(b"%d" % n) for n in range(1000))


def test_each_publisher_has_a_feed_of_its_own_with_its_names(peers: Peers) -> None:
    publishers, sink = [RawPublisher(peers) for _ in range(3)], NotingSink()
    sources = [
        SourceConfig(endpoint=p.endpoint, pod=f"pod-{n}", model="m", rank=n, overrides_topic=n == 1)
        for n, p in enumerate(publishers)
    ]
    with Subscriber(sink, sources) as subscriber:
        for number, publisher in enumerate(publishers):
            publisher.wait_for_subscriber()
            publisher.publish(b"", b"%d" % number)
        assert subscriber.wait_until(lambda s: s.batches == 3, WAIT_S)
        assert subscriber.wait_until(lambda s: s.connections == 3, WAIT_S)
        assert [one.batches for one in subscriber.statistics().sources] == [1, 1, 1]
    assert [feed.names for feed in sink.feeds] == [
        FeedNames(pod=f"pod-{n}", model="m", rank=n, overrides=n == 1) for n in range(3)
    ]


def test_a_socket_that_listens_takes_many_publishers(peers: Peers) -> None:
    sink = NotingSink()
    with Subscriber(sink, [LISTENING]) as subscriber:
        (endpoint,) = subscriber.endpoints
        for number in range(5):
            publisher = RawPublisher(peers, endpoint, bind=False)
            publisher.wait_for_subscriber()
            publisher.publish(b"kv@pod-%d@m" % number, b"x")
        assert subscriber.wait_until(lambda s: (s.batches, s.connections) == (5, 5), WAIT_S)
    assert {topic for topic, _, _ in sink.batches} == {b"kv@pod-%d@m" % n for n in range(5)}
    assert sink.feeds[0].told[0] == "opened"


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("kind", ["ipc", "ipv6"])
def test_every_transport_works_in_both_directions(
    peers: Peers, tmp_path: Path, listens: bool, kind: str
) -> None:
    wanted = f"ipc://{tmp_path}/s" if kind == "ipc" else "tcp://[::1]:*"
    sink = NotingSink()
    publisher = None if listens else RawPublisher(peers, wanted)
    source = SourceConfig(endpoint=publisher.endpoint if publisher else wanted, bind=listens)
    with Subscriber(sink, [source]) as subscriber:
        publisher = publisher or RawPublisher(peers, subscriber.endpoints[0], bind=False)
        publisher.wait_for_subscriber()
        publisher.publish(TOPIC, b"x")
        assert subscriber.wait_until(lambda s: s.batches == 1, WAIT_S)


def test_messages_of_the_wrong_shape_are_counted_and_said_once_and_the_good_ones_arrive(
    peers: Peers, caplog: pytest.LogCaptureFixture
) -> None:
    publisher, sink = RawPublisher(peers), NotingSink()
    with caplog.at_level(logging.WARNING), Subscriber(sink, [publisher.endpoint]) as subscriber:
        publisher.wait_for_subscriber()
        for _ in range(10):
            publisher.socket.send_multipart([TOPIC])
            publisher.socket.send_multipart([TOPIC, bytes(8), b"x", b"one too many"])
            publisher.socket.send_multipart([TOPIC, bytes(8), *[b"x"] * 1000])
            publisher.socket.send_multipart([TOPIC, bytes(7), b"x"])
            publisher.socket.send_multipart([TOPIC, bytes(9), b"x"])
            publisher.publish(TOPIC, NO_BATCH)
        publisher.publish(TOPIC, b"good")
        assert subscriber.wait_until(lambda s: s.batches == 1, WAIT_S)
        statistics = subscriber.statistics()
    assert (statistics.bad_frames, statistics.bad_sequence, statistics.refused) == (30, 20, 10)
    assert sink.batches == [(TOPIC, 10, b"good")]
    said = [record.getMessage() for record in caplog.records if record.name.endswith("source")]
    assert len(said) == len(statistics.sources[0].said) == 3
    assert "expected topic, sequence number and payload, got 1 frames" in said[0]
    assert "expected a sequence number of 8 bytes, got 7" in said[1]


def test_a_sequence_number_of_eight_high_bytes_is_unsigned(peers: Peers) -> None:
    publisher, sink = RawPublisher(peers), NotingSink()
    with Subscriber(sink, [publisher.endpoint]) as subscriber:
        publisher.wait_for_subscriber()
        publisher.socket.send_multipart([TOPIC, b"\xff" * 8, b"x"])
        assert subscriber.wait_until(lambda s: s.batches == 1, WAIT_S)
    assert sink.batches == [(TOPIC, 2**64 - 1, b"x")]


def test_a_frame_beyond_the_limit_cuts_its_publisher_off_until_it_is_dialled_again(peers: Peers) -> None:
    publisher, sink = RawPublisher(peers), NotingSink()
    config = SubscriberConfig(message_bytes_max=1000)
    with Subscriber(sink, [publisher.endpoint], config) as subscriber:
        publisher.wait_for_subscriber()
        publisher.publish(TOPIC, bytes(1001))
        publisher.wait_for_another()
        publisher.publish(TOPIC, bytes(1000))
        assert subscriber.wait_until(lambda s: s.batches == 1, WAIT_S)
    assert sink.batches == [(TOPIC, 1, bytes(1000))]
    assert sink.feeds[0].told == ["opened", "closed", "opened", "close"]


def test_a_publisher_that_leaves_and_comes_back_is_noticed(peers: Peers) -> None:
    publisher, sink = RawPublisher(peers), NotingSink()
    with Subscriber(sink, [publisher.endpoint]) as subscriber:
        assert subscriber.wait_until(lambda s: s.connections == 1, WAIT_S)
        publisher.socket.close(linger=0)
        assert subscriber.wait_until(lambda s: s.connections == 0, WAIT_S)
        again = RawPublisher(peers, publisher.endpoint)
        again.wait_for_subscriber()
        assert subscriber.wait_until(lambda s: s.connections == 1, WAIT_S)
    assert sink.feeds[0].told == ["opened", "closed", "opened", "close"]


def test_connections_that_come_and_go_on_a_listening_socket_are_one_disturbance(peers: Peers) -> None:
    sink = NotingSink()
    with Subscriber(sink, [LISTENING], SubscriberConfig(settle_s=1.0)) as subscriber:
        (endpoint,) = subscriber.endpoints
        publishers = [RawPublisher(peers, endpoint, bind=False) for _ in range(10)]
        assert subscriber.wait_until(lambda s: s.connections == 10, WAIT_S)
        assert sink.feeds[0].told == ["opened"], "who comes does not disturb the others"
        for publisher in publishers[:9]:
            publisher.socket.close(linger=0)
        assert subscriber.wait_until(lambda s: s.connections == 1, WAIT_S)
        assert subscriber.wait_until(lambda s: len(sink.feeds[0].told) >= 3, WAIT_S)
        publishers[9].socket.close(linger=0)
        assert subscriber.wait_until(lambda s: s.connections == 0, WAIT_S)
    assert sink.feeds[0].told == ["opened", "closed", "opened", "closed", "close"]


def test_sources_come_and_go_while_others_are_heard(peers: Peers) -> None:
    publishers, sink = [RawPublisher(peers) for _ in range(2)], NotingSink()
    with Subscriber(sink) as subscriber:
        for publisher in publishers:
            assert subscriber.add(publisher.endpoint) == publisher.endpoint
            publisher.wait_for_subscriber()
            publisher.publish(TOPIC, b"x")
        assert subscriber.wait_until(lambda s: s.batches == 2, WAIT_S)
        with pytest.raises(ConfigError, match="each endpoint once"):
            subscriber.add(publishers[0].endpoint)
        subscriber.remove(publishers[0].endpoint)
        publishers[0].wait_for_departure()
        assert sink.feeds[0].told[-1] == "close"
        publishers[1].publish(TOPIC, b"x")
        assert subscriber.wait_until(lambda s: s.batches == 3, WAIT_S), "what was counted stays counted"
        assert subscriber.endpoints == (publishers[1].endpoint,)
        with pytest.raises(ConfigError, match="expected the endpoint of one"):
            subscriber.remove(publishers[0].endpoint)
        subscriber.add(publishers[0].endpoint)
        publishers[0].wait_for_subscriber()
    with pytest.raises(ConfigError, match="got one that has stopped"):
        subscriber.add(publishers[0].endpoint)


def test_a_port_is_free_as_soon_as_its_source_is_removed() -> None:
    with Subscriber(NotingSink(), [LISTENING]) as subscriber:
        (endpoint,) = subscriber.endpoints
        source = SourceConfig(endpoint=endpoint, bind=True)
        for _ in range(5):
            subscriber.remove(endpoint)
            assert subscriber.add(source) == endpoint


def test_sources_beyond_the_bound_are_refused() -> None:
    config = SubscriberConfig(sources_max=2)
    with pytest.raises(ConfigError, match="expected at most 2"):
        Subscriber(NotingSink(), [LISTENING] * 3, config)


@pytest.mark.slow
def test_a_quiet_publisher_is_heard_at_once_while_another_one_floods(peers: Peers) -> None:
    flooding, quiet, sink = RawPublisher(peers), RawPublisher(peers), NotingSink()
    with Subscriber(sink, [flooding.endpoint, quiet.endpoint]) as subscriber:
        flooding.wait_for_subscriber()
        quiet.wait_for_subscriber()
        with sink.feeds[0].held:  # until much waits
            for _ in range(50_000):
                flooding.publish(b"kv@loud@m", b"x")
            quiet.publish(b"kv@quiet@m", b"x")
        assert subscriber.wait_until(lambda s: s.batches == 50_001, WAIT_S)
    place = next(i for i, (topic, _, _) in enumerate(sink.batches) if topic == b"kv@quiet@m")
    assert place < 50_000, "it did not wait for all of the other's"


def test_a_wait_that_is_never_fulfilled_ends_with_its_time() -> None:
    with Subscriber(NotingSink(), [LISTENING]) as subscriber:
        assert not subscriber.wait_until(lambda s: s.batches == 1, timeout_s=0.01)


@pytest.mark.parametrize("endpoint", ["", "10.0.0.9:5557", "tcp://127.0.0.1", "smtp://10.0.0.9:25"])
def test_an_endpoint_that_is_none_is_a_clear_error(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="expected an endpoint such as 'tcp://"):
        Subscriber(NotingSink(), [endpoint])
    with Subscriber(NotingSink()) as subscriber, pytest.raises(ConfigError, match="such as 'tcp://"):
        subscriber.add(endpoint)


def test_stopping_twice_or_without_a_start_is_harmless() -> None:
    never_started = Subscriber(NotingSink(), [LISTENING])
    never_started.stop()
    with Subscriber(NotingSink(), [LISTENING]) as subscriber:
        pass
    subscriber.stop()


class ImpossibleFeed(NotingFeed):
    """Wants what no question can ask for."""

    def requests(self) -> Sequence[ReplayWanted]:
        return (FeedRequest(cast(Conversation, self), number=1, start=-1),)

    pod = rank = None

    def began(self, number: int) -> None:
        pass


class ImpossibleSink(NotingSink):
    def feed(self, *_: object, **__: object) -> NotingFeed:
        self.feeds.append(ImpossibleFeed(FeedNames(), self.batches))
        return self.feeds[-1]


def test_a_replay_thread_that_dies_ends_the_other_one_and_is_told() -> None:
    sink = ImpossibleSink()
    source = SourceConfig(endpoint="tcp://127.0.0.1:1", replay_endpoint="tcp://127.0.0.1:1")
    subscriber = Subscriber(sink, [source]).start()
    assert not subscriber.wait_until(lambda s: s.batches == 1, WAIT_S), "the threads have ended"
    assert "OverflowError" in str(subscriber.statistics().failure)
    with pytest.raises(OverflowError):
        subscriber.stop()
    assert sink.feeds[0].told[-1] == "close"


def test_an_error_that_is_no_bad_input_ends_the_thread_and_is_told(
    peers: Peers, caplog: pytest.LogCaptureFixture
) -> None:
    publisher, sink = RawPublisher(peers), NotingSink()
    subscriber = Subscriber(sink, [publisher.endpoint]).start()
    publisher.wait_for_subscriber()
    publisher.publish(TOPIC, BROKEN)
    assert not subscriber.wait_until(lambda s: s.batches == 1, WAIT_S), "the thread has ended"
    assert subscriber.statistics().failure == "RuntimeError: broken invariant"
    assert "the subscriber's thread has ended" in caplog.text
    with pytest.raises(ConfigError, match="got one that has stopped"):
        subscriber.add(LOOPBACK)
    with pytest.raises(RuntimeError, match="broken invariant"):
        subscriber.stop()
    assert sink.feeds[0].told[-1] == "close"
