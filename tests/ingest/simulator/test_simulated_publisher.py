"""The publisher over real sockets: what arrives, what is lost, and what can be replayed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import zmq

from kvatlas.index.errors import ConfigError, KvatlasError
from kvatlas.ingest.publishing.replay_socket import ReplaySocket
from kvatlas.ingest.simulator.publisher import SimulatedPublisher
from tests.ingest.zmq_peers import (
    END_OF_REPLAY,
    WAIT_S,
    Peers,
    number,
    poll_until_subscribed,
    received,
    replay,
)

TOPIC = b"kv@pod0@m"


@pytest.fixture
def peers() -> Iterator[Peers]:
    made = Peers()
    yield made
    made.close()


@pytest.fixture
def publisher() -> Iterator[SimulatedPublisher]:
    with SimulatedPublisher("kv@pod0@m", buffer_steps=100) as made:
        yield made


def test_batches_arrive_as_topic_sequence_number_and_payload(
    peers: Peers, publisher: SimulatedPublisher
) -> None:
    subscriber = peers.subscribed(publisher)
    assert [publisher.publish(payload) for payload in (b"a", b"b")] == [0, 1]
    assert received(subscriber) == [TOPIC, bytes(8), b"a"]
    assert received(subscriber) == [TOPIC, bytes(7) + b"\x01", b"b"]


def test_publisher_with_a_fixed_endpoint_dials_a_subscriber_that_listens(
    peers: Peers,
) -> None:
    subscriber = peers.socket(zmq.SUB)
    subscriber.subscribe(b"")
    subscriber.bind("tcp://127.0.0.1:*")
    endpoint = subscriber.get_string(zmq.LAST_ENDPOINT)
    with SimulatedPublisher("t", endpoint=endpoint, replay_endpoint=None) as publisher:
        assert publisher.endpoint == endpoint
        poll_until_subscribed(publisher, subscriber)
        publisher.publish(b"a")
        assert received(subscriber) == [b"t", bytes(8), b"a"]


def test_publishers_of_one_process_can_share_a_context(peers: Peers) -> None:
    with SimulatedPublisher(
        "t", endpoint="inproc://live", replay_endpoint="inproc://replay", context=peers.context
    ) as publisher:
        subscriber = peers.subscribed(publisher)
        publisher.publish(b"a")
        assert received(subscriber)[2] == b"a"
        assert len(replay(peers.dealer(publisher), 0)) == 1
    assert not peers.context.closed


def test_each_rank_has_ports_of_its_own() -> None:
    with SimulatedPublisher(
        "t", endpoint="tcp://127.0.0.1:5557", replay_endpoint=None, data_parallel_rank=2
    ) as publisher:
        assert publisher.endpoint == "tcp://127.0.0.1:5559"


def test_subscribers_that_leave_are_no_longer_counted(peers: Peers, publisher: SimulatedPublisher) -> None:
    stays = peers.subscribed(publisher)
    leaves = peers.subscribed(publisher, count=2)
    leaves.close()
    deadline_s = time.monotonic() + WAIT_S
    while publisher.statistics().subscribers == 2:
        assert time.monotonic() < deadline_s
    publisher.wait_for_subscribers(1)
    publisher.publish(b"a")
    assert received(stays)[2] == b"a"


def test_waiting_for_nobody_ends(publisher: SimulatedPublisher) -> None:
    with pytest.raises(TimeoutError, match="expected 3 subscribers, got 0"):
        publisher.wait_for_subscribers(3, timeout_s=0.01)


def test_replay_sends_everything_from_the_number_asked_for_and_an_end(
    peers: Peers, publisher: SimulatedPublisher
) -> None:
    for payload in (b"a", b"b", b"c"):
        publisher.publish(payload)
    socket = peers.dealer(publisher)
    assert replay(socket, 1) == [[b"", TOPIC, number(1), b"b"], [b"", TOPIC, number(2), b"c"]]
    assert replay(socket, 3) == []
    socket.send_multipart([b"", number(3)])
    assert received(socket) == [b"", b"", END_OF_REPLAY, b""]


def test_a_batch_can_be_replayed_before_anybody_hears_it(
    peers: Peers, publisher: SimulatedPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the real one, whose thread sends, keeps and answers in turns: who asks at once is not told that
    the batch does not exist, which would be another incarnation's word."""
    subscriber, keep, heard = peers.subscribed(publisher), ReplaySocket.append, []

    def append(kept: ReplaySocket, sequence: int, payload: bytes) -> None:
        heard.append(subscriber.poll(100))
        keep(kept, sequence, payload)

    monkeypatch.setattr(ReplaySocket, "append", append)
    publisher.publish(b"a")
    assert heard == [0]
    assert received(subscriber)[2] == b"a"


def test_replay_of_older_releases_has_no_topic(peers: Peers) -> None:
    with SimulatedPublisher("t", topic_in_replay=False) as publisher:
        publisher.publish(b"a")
        socket = peers.dealer(publisher)
        socket.send_multipart([b"", bytes(8)])
        assert received(socket) == [b"", bytes(8), b"a"]
        assert received(socket) == [b"", END_OF_REPLAY, b""]


def test_replay_without_the_empty_frame_gets_no_answer(peers: Peers, publisher: SimulatedPublisher) -> None:
    publisher.publish(b"a")
    socket = peers.dealer(publisher)
    socket.send(bytes(8))
    assert len(replay(socket, 0)) == 1, "the answer is to the second request alone"
    statistics = publisher.statistics()
    assert (statistics.bad_requests, statistics.replays, statistics.replayed) == (1, 1, 1)


def test_request_socket_gets_the_first_reply_only(peers: Peers, publisher: SimulatedPublisher) -> None:
    publisher.publish(b"a")
    publisher.publish(b"b")
    assert publisher.replay_endpoint is not None
    socket = peers.socket(zmq.REQ)
    socket.connect(publisher.replay_endpoint)
    socket.send(bytes(8))
    assert received(socket) == [TOPIC, bytes(8), b"a"]
    assert not socket.poll(0)


def test_buffer_keeps_only_the_last_batches_and_does_not_say_so(
    peers: Peers,
) -> None:
    with SimulatedPublisher("t", buffer_steps=2) as publisher:
        for payload in (b"a", b"b", b"c"):
            publisher.publish(payload)
        replies = replay(peers.dealer(publisher), 0)
        assert [reply[3] for reply in replies] == [b"b", b"c"]
        assert publisher.statistics().buffered == 2


def test_peer_that_does_not_read_loses_replies_silently_at_the_high_water_mark(
    peers: Peers,
) -> None:
    payload = bytes(1 << 18)
    count = 300
    with SimulatedPublisher("t", replay_hwm=4) as publisher:
        for _ in range(count):
            publisher.publish(payload)
        slow = peers.socket(zmq.DEALER)
        slow.set(zmq.RCVHWM, 4)
        assert publisher.replay_endpoint is not None
        slow.connect(publisher.replay_endpoint)
        slow.send_multipart([b"", bytes(8)])
        deadline_s = time.monotonic() + WAIT_S
        while publisher.statistics().replays == 0:
            assert time.monotonic() < deadline_s
        assert publisher.statistics().replayed == count
        assert slow.poll(int(WAIT_S * 1000)), "nothing came"
        sequences = []
        while slow.poll(200):
            sequences.append(slow.recv_multipart()[2])
        arrived = [sequence for sequence in sequences if sequence != END_OF_REPLAY]
        assert 0 < len(arrived) < count
        assert arrived == sorted(arrived)


def test_lost_batches_leave_a_gap_that_replay_fills(peers: Peers, publisher: SimulatedPublisher) -> None:
    subscriber = peers.subscribed(publisher)
    publisher.publish(b"a")
    publisher.lose(2)
    for payload in (b"b", b"c", b"d"):
        publisher.publish(payload)
    assert [received(subscriber)[2] for _ in range(2)] == [b"a", b"d"]
    assert [r[3] for r in replay(peers.dealer(publisher), 1)] == [b"b", b"c", b"d"]
    statistics = publisher.statistics()
    assert (statistics.published, statistics.lost, statistics.next_sequence) == (2, 2, 4)


def test_batches_lost_for_good_leave_a_hole_in_replay_too(
    peers: Peers, publisher: SimulatedPublisher
) -> None:
    publisher.lose(1, for_good=True)
    publisher.publish(b"a")
    publisher.publish(b"b")
    assert [r[2:] for r in replay(peers.dealer(publisher), 0)] == [[number(1), b"b"]]


@pytest.mark.parametrize("reopen", [True, False])
def test_restart_begins_at_zero_with_an_empty_buffer_at_the_same_endpoints(
    peers: Peers, publisher: SimulatedPublisher, reopen: bool
) -> None:
    endpoints = publisher.endpoint, publisher.replay_endpoint
    publisher.publish(b"a")
    publisher.publish(b"b")
    publisher.restart(reopen=reopen)
    assert (publisher.endpoint, publisher.replay_endpoint) == endpoints
    subscriber = peers.subscribed(publisher)
    assert publisher.publish(b"c") == 0
    assert received(subscriber) == [TOPIC, bytes(8), b"c"]
    assert [reply[3] for reply in replay(peers.dealer(publisher), 0)] == [b"c"]


def test_restart_that_keeps_its_sockets_is_seen_as_a_sequence_that_runs_backwards(
    peers: Peers, publisher: SimulatedPublisher
) -> None:
    subscriber = peers.subscribed(publisher)
    for payload in (b"a", b"b"):
        publisher.publish(payload)
    publisher.restart(reopen=False)
    publisher.publish(b"c")
    assert [received(subscriber)[1] for _ in range(3)] == [number(0), number(1), number(0)]


def test_what_is_published_while_it_is_cut_off_can_only_be_replayed(
    peers: Peers, publisher: SimulatedPublisher
) -> None:
    endpoints = publisher.endpoint, publisher.replay_endpoint
    assert publisher.publish(b"a") == 0
    publisher.cut()
    publisher.cut()  # twice is fine
    assert publisher.publish(b"b") == 1
    publisher.mend()
    publisher.mend()  # twice is fine
    assert (publisher.endpoint, publisher.replay_endpoint) == endpoints
    subscriber = peers.subscribed(publisher)
    assert publisher.publish(b"c") == 2
    assert received(subscriber) == [TOPIC, number(2), b"c"]
    assert [reply[3] for reply in replay(peers.dealer(publisher), 0)] == [b"a", b"b", b"c"]
    assert publisher.statistics().lost == 1


def test_a_restart_ends_being_cut_off(peers: Peers, publisher: SimulatedPublisher) -> None:
    publisher.cut()
    publisher.publish(b"a")
    publisher.restart()
    subscriber = peers.subscribed(publisher)
    assert publisher.publish(b"b") == 0
    assert received(subscriber) == [TOPIC, bytes(8), b"b"]


def test_publishing_from_several_threads_numbers_every_batch_once(
    peers: Peers, publisher: SimulatedPublisher
) -> None:
    subscriber = peers.subscribed(publisher)
    threads = [
        threading.Thread(target=lambda: [publisher.publish(b"") for _ in range(200)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sequences = [int.from_bytes(received(subscriber)[1], "big") for _ in range(800)]
    assert sequences == list(range(800))


def test_closing_frees_the_ports_and_twice_is_fine(peers: Peers) -> None:
    publisher = SimulatedPublisher("t")
    endpoints = publisher.endpoint, publisher.replay_endpoint
    publisher.close()
    publisher.close()
    for endpoint in endpoints:
        assert endpoint is not None
        peers.socket(zmq.PUB).bind(endpoint)
    for refused in (lambda: publisher.publish(b"a"), publisher.restart):
        with pytest.raises(KvatlasError, match="closed"):
            refused()


@pytest.mark.parametrize("endpoint", ["nonsense", "udp6://*:1", "tcp://*:port"])
def test_endpoints_that_cannot_be_used_are_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        SimulatedPublisher("t", endpoint=endpoint)
    with pytest.raises(ConfigError, match="endpoint"):
        SimulatedPublisher("t", replay_endpoint=endpoint)


def test_port_that_is_taken_is_refused(publisher: SimulatedPublisher) -> None:
    with pytest.raises(ConfigError, match="in use"):
        SimulatedPublisher("t", replay_endpoint=publisher.endpoint)
