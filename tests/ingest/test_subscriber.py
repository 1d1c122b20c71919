"""The plain subscriber against real PUB sockets on the loopback address."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest
import zmq

from kvatlas.index.errors import ConfigError, DecodeError
from kvatlas.ingest.subscriber import Subscriber

WAIT_S = 10.0
LOOPBACK = "tcp://127.0.0.1:*"


class RecordingSink:
    """Stands where the atlas stands, and keeps what it is given."""

    def __init__(self) -> None:
        self.batches: list[tuple[bytes, int, bytes]] = []

    def ingest(self, topic: bytes, seq: int, payload: bytes) -> None:
        if payload == b"no batch":
            raise DecodeError("no batch")
        if payload == b"broken invariant":
            raise RuntimeError("broken invariant")
        self.batches.append((topic, seq, payload))


class Publisher:
    """An XPUB socket, which tells when a subscription has arrived."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, bind: bool) -> None:
        self.socket = context.socket(zmq.XPUB)
        self.socket.set(zmq.XPUB_VERBOSER, 1)  # else a quick resubscription is merged with what it follows
        self.socket.set(zmq.LINGER, 0)
        (self.socket.bind if bind else self.socket.connect)(endpoint)
        self.endpoint = self.socket.get_string(zmq.LAST_ENDPOINT)
        self.seq = 0

    def wait_for_subscriber(self) -> None:
        assert self.socket.poll(int(WAIT_S * 1000)), "nobody subscribed"
        assert self.socket.recv() == b"\x01"

    def publish(self, topic: bytes, payload: bytes) -> None:
        self.socket.send_multipart([topic, struct.pack(">Q", self.seq), payload])
        self.seq += 1


NewPublisher = Callable[..., Publisher]


@pytest.fixture
def new_publisher() -> Iterator[NewPublisher]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    publishers: list[Publisher] = []

    def create(endpoint: str = LOOPBACK, bind: bool = True) -> Publisher:
        publishers.append(Publisher(context, endpoint, bind))
        return publishers[-1]

    yield create
    for publisher in publishers:
        publisher.socket.close(linger=0)
    context.term()


def test_batches_arrive_in_the_order_of_their_publisher(new_publisher: NewPublisher) -> None:
    publisher = new_publisher()
    sink = RecordingSink()
    with Subscriber(sink, [publisher.endpoint]) as subscriber:
        publisher.wait_for_subscriber()
        for number in range(1000):
            publisher.publish(b"kv@pod@model", b"%d" % number)
        assert subscriber.wait_until(lambda s: s.batches == 1000, WAIT_S)
    assert sink.batches == [(b"kv@pod@model", n, b"%d" % n) for n in range(1000)]
    assert subscriber.statistics().payload_bytes == sum(len(b"%d" % n) for n in range(1000))


def test_one_socket_connects_to_several_publishers(new_publisher: NewPublisher) -> None:
    publishers = [new_publisher() for _ in range(3)]
    sink = RecordingSink()
    with Subscriber(sink, [p.endpoint for p in publishers]) as subscriber:
        for number, publisher in enumerate(publishers):
            publisher.wait_for_subscriber()
            publisher.publish(b"kv@pod-%d@model" % number, b"x")
        assert subscriber.wait_until(lambda s: s.batches == 3, WAIT_S)
        assert subscriber.wait_until(lambda s: s.connections == 3, WAIT_S)
    assert {topic for topic, _, _ in sink.batches} == {b"kv@pod-%d@model" % n for n in range(3)}


def test_a_bound_socket_takes_publishers_that_dial(new_publisher: NewPublisher) -> None:
    sink = RecordingSink()
    with Subscriber(sink, [LOOPBACK], bind=True) as subscriber:
        publishers = [new_publisher(subscriber.endpoint, bind=False) for _ in range(2)]
        for publisher in publishers:
            publisher.wait_for_subscriber()
            publisher.publish(b"kv@pod@model", b"x")
        assert subscriber.wait_until(lambda s: s.batches == 2, WAIT_S)


def test_a_topic_that_names_no_pod_is_replaced_and_one_that_does_is_not(new_publisher: NewPublisher) -> None:
    publisher = new_publisher()
    sink = RecordingSink()
    with Subscriber(sink, [publisher.endpoint], unnamed_topic=b"kv@configured@model") as subscriber:
        publisher.wait_for_subscriber()
        for topic in (b"", b"kv-events", b"kv@own@model"):
            publisher.publish(topic, b"x")
        assert subscriber.wait_until(lambda s: s.batches == 3, WAIT_S)
    topics = [topic for topic, _, _ in sink.batches]
    assert topics == [b"kv@configured@model", b"kv@configured@model", b"kv@own@model"]


def test_bad_messages_are_counted_and_the_good_ones_still_arrive(new_publisher: NewPublisher) -> None:
    publisher = new_publisher()
    sink = RecordingSink()
    with Subscriber(sink, [publisher.endpoint]) as subscriber:
        publisher.wait_for_subscriber()
        publisher.socket.send_multipart([b"kv@pod@model"])
        publisher.socket.send_multipart([b"kv@pod@model", bytes(8), b"x", b"one too many"])
        publisher.socket.send_multipart([b"kv@pod@model", b"short", b"x"])
        publisher.publish(b"kv@pod@model", b"no batch")
        publisher.publish(b"kv@pod@model", b"good")
        assert subscriber.wait_until(lambda s: s.batches == 1, WAIT_S)
    statistics = subscriber.statistics()
    assert (statistics.bad_frames, statistics.bad_sequence, statistics.refused) == (2, 1, 1)
    assert sink.batches == [(b"kv@pod@model", 1, b"good")]


def test_a_sequence_number_of_eight_high_bytes_is_unsigned(new_publisher: NewPublisher) -> None:
    publisher = new_publisher()
    sink = RecordingSink()
    with Subscriber(sink, [publisher.endpoint]) as subscriber:
        publisher.wait_for_subscriber()
        publisher.socket.send_multipart([b"kv@pod@model", b"\xff" * 8, b"x"])
        assert subscriber.wait_until(lambda s: s.batches == 1, WAIT_S)
    assert sink.batches == [(b"kv@pod@model", 2**64 - 1, b"x")]


def test_a_frame_beyond_the_limit_cuts_its_publisher_off(new_publisher: NewPublisher) -> None:
    publisher = new_publisher()
    sink = RecordingSink()
    with Subscriber(sink, [publisher.endpoint], message_bytes_max=1000) as subscriber:
        publisher.wait_for_subscriber()
        publisher.publish(b"kv@pod@model", bytes(1001))
        assert publisher.socket.poll(int(WAIT_S * 1000))
        assert publisher.socket.recv() == b"\x00", "the subscription ends with the connection"
        publisher.wait_for_subscriber()  # it dials again
        publisher.publish(b"kv@pod@model", bytes(1000))
        assert subscriber.wait_until(lambda s: s.batches == 1, WAIT_S)
    assert sink.batches == [(b"kv@pod@model", 1, bytes(1000))]


def test_the_count_of_connections_follows_publishers_that_come_and_go(new_publisher: NewPublisher) -> None:
    publisher = new_publisher()
    with Subscriber(RecordingSink(), [publisher.endpoint]) as subscriber:
        assert subscriber.wait_until(lambda s: s.connections == 1, WAIT_S)
        publisher.socket.close(linger=0)
        assert subscriber.wait_until(lambda s: s.connections == 0, WAIT_S)


def test_a_wait_that_is_never_fulfilled_ends_with_its_time() -> None:
    with Subscriber(RecordingSink(), [LOOPBACK], bind=True) as subscriber:
        assert not subscriber.wait_until(lambda s: s.batches == 1, timeout_s=0.01)


@pytest.mark.parametrize("endpoint", ["", "10.0.0.9:5557", "tcp://127.0.0.1", "smtp://10.0.0.9:25"])
def test_an_endpoint_that_is_none_is_a_clear_error(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="expected an endpoint such as 'tcp://"):
        Subscriber(RecordingSink(), [endpoint])


def test_stopping_twice_or_without_a_start_is_harmless() -> None:
    never_started = Subscriber(RecordingSink(), [LOOPBACK], bind=True)
    never_started.stop()
    with Subscriber(RecordingSink(), [LOOPBACK], bind=True) as subscriber:
        pass
    subscriber.stop()


def test_an_error_that_is_no_bad_input_surfaces_at_the_stop(new_publisher: NewPublisher) -> None:
    publisher = new_publisher()
    subscriber = Subscriber(RecordingSink(), [publisher.endpoint]).start()
    publisher.wait_for_subscriber()
    publisher.publish(b"kv@pod@model", b"broken invariant")
    assert not subscriber.wait_until(lambda s: s.batches == 1, WAIT_S), "the thread has ended"
    with pytest.raises(RuntimeError, match="broken invariant"):
        subscriber.stop()
