"""Answers of replay sockets, good and bad, on their way through the client."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator

import pytest
import zmq

from kvatlas.ingest.sockets.replay_answer import Answer, Reply
from kvatlas.ingest.sockets.replay_client import ReplayClient
from kvatlas.ingest.sockets.subscriber_config import SubscriberConfig
from tests.ingest.sockets.subscriber_peers import END, LOOPBACK, ScriptedReplay, reply
from tests.ingest.zmq_peers import END_OF_REPLAY, WAIT_S, Peers, Socket, number
from tests.ports import deaf_port

TOPIC = b"kv@pod@m"


class Asking:
    """A client in a context of its own, and a wait for what it brings."""

    def __init__(self, config: SubscriberConfig) -> None:
        self.context: zmq.Context[Socket] = zmq.Context()
        self._arrived = threading.Condition()
        self.client = ReplayClient(self.context, config, self._note)
        self.client.start()

    def _note(self) -> None:
        with self._arrived:
            self._arrived.notify_all()

    def ask(self, endpoint: str, start: int = 0) -> Answer:
        answer = Answer(endpoint, start, None)
        self.client.ask(answer)
        return answer

    def ended(self, answer: Answer) -> list[Reply]:
        """All replies, once the answer is complete or has failed."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: answer.is_ended, WAIT_S), "the answer did not end"
        return self.taken(answer)

    def waits_for(self, answer: Answer, count: int) -> bool:
        with self._arrived:
            return self._arrived.wait_for(lambda: len(answer) >= count, WAIT_S)

    @staticmethod
    def taken(answer: Answer) -> list[Reply]:
        return list(iter(answer.take, None))

    def close(self) -> None:
        self.client.stop()
        self.context.term()


@pytest.fixture
def peers() -> Iterator[Peers]:
    made = Peers()
    yield made
    made.close()


@pytest.fixture
def asking(request: pytest.FixtureRequest) -> Iterator[Asking]:
    made = Asking(getattr(request, "param", SubscriberConfig()))
    yield made
    made.close()


def batches(start: int, count: int = 5) -> Iterable[list[bytes]]:
    yield from (reply(TOPIC, seq, b"%d" % seq) for seq in range(start, count))
    yield END


def test_an_answer_comes_whole_and_in_order(peers: Peers, asking: Asking) -> None:
    with ScriptedReplay(peers, batches) as socket:
        answer = asking.ask(socket.endpoint, start=2)
        assert asking.ended(answer) == [Reply(TOPIC, seq, b"%d" % seq) for seq in (2, 3, 4)]
        assert (answer.is_complete, answer.why, socket.starts) == (True, "", [2])


def test_replies_of_older_servers_have_no_topic(peers: Peers, asking: Asking) -> None:
    def script(start: int) -> Iterable[list[bytes]]:
        yield [b"", number(start), b"x"]
        yield [b"", END_OF_REPLAY, b""]

    with ScriptedReplay(peers, script) as socket:
        answer = asking.ask(socket.endpoint, start=7)
        assert asking.ended(answer) == [Reply(None, 7, b"x")]
        assert answer.is_complete


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ([b""], "expected a reply of 3 or 4 frames, got 1"),
        ([b"", b"t", number(1), b"x", b"more"], "expected a reply of 3 or 4 frames, got 5"),
        ([b"", *[b"x"] * 100], "expected a reply of 3 or 4 frames, got 5"),
        ([b"x", b"t", number(1), b"x"], "with an empty first frame, got 1 bytes"),
        ([b"", b"t", bytes(7), b"x"], "expected a sequence number of 8 bytes, got 7"),
        ([b"", bytes(9), b"x"], "expected a sequence number of 8 bytes, got 9"),
    ],
)
def test_a_reply_that_is_none_fails_the_answer_behind_what_was_good(
    peers: Peers, asking: Asking, bad: list[bytes], why: str
) -> None:
    def script(start: int) -> Iterable[list[bytes]]:
        return [reply(TOPIC, 0, b"x"), bad, reply(TOPIC, 1, b"x"), END]

    with ScriptedReplay(peers, script) as socket:
        answer = asking.ask(socket.endpoint)
        assert asking.ended(answer) == [Reply(TOPIC, 0, b"x")]
        assert (answer.is_complete, answer.was_bad) == (False, True)
        assert why in answer.why


def endless(start: int) -> Iterable[list[bytes]]:
    return (reply(TOPIC, seq, bytes(10_000)) for seq in itertools.count(start))


@pytest.mark.parametrize("asking", [SubscriberConfig(replay_bytes_max=1 << 20)], indirect=True)
def test_an_endless_answer_is_cut_at_the_bound(peers: Peers, asking: Asking) -> None:
    with ScriptedReplay(peers, endless) as socket:
        answer = asking.ask(socket.endpoint)
        replies = asking.ended(answer)
        assert "cut after" in answer.why and answer.was_cut
        assert [one.seq for one in replies] == list(range(len(replies)))
        assert 90 <= len(replies) <= (1 << 20) // 10_000


@pytest.mark.parametrize("asking", [SubscriberConfig(replay_bytes_max=1)], indirect=True)
def test_one_message_is_taken_of_each_answer_however_small_the_bound(peers: Peers, asking: Asking) -> None:
    with ScriptedReplay(peers, batches) as socket:
        for start in (0, 3):
            answer = asking.ask(socket.endpoint, start)
            assert [one.seq for one in asking.ended(answer)] == [start]
            assert answer.was_cut


@pytest.mark.parametrize("asking", [SubscriberConfig(replay_bytes_max=1 << 20)], indirect=True)
def test_answers_share_the_bound_and_what_is_taken_or_dropped_makes_room(
    peers: Peers, asking: Asking
) -> None:
    def half(start: int) -> Iterable[list[bytes]]:
        yield from (reply(TOPIC, seq, bytes(100_000)) for seq in range(6))
        yield END

    with ScriptedReplay(peers, half) as socket:
        first, second = asking.ask(socket.endpoint), asking.ask(socket.endpoint)
        assert asking.waits_for(first, 4) and asking.waits_for(second, 4)
        asking.ended(second if second.is_ended else first)  # took all of one
        asking.client.drop(first)
        asking.client.drop(second)
        third = asking.ask(socket.endpoint)
        assert len(asking.ended(third)) == 6
        assert third.is_complete


def test_nobody_there_fails_soon_and_says_so() -> None:
    asking = Asking(SubscriberConfig(replay_connect_s_max=0.2))
    try:
        with deaf_port() as port:
            answer = asking.ask(f"tcp://127.0.0.1:{port}")
            assert asking.ended(answer) == []
        assert answer.why == f"replay: tcp://127.0.0.1:{port}: nobody there"
    finally:
        asking.close()


def test_a_server_that_dies_in_its_answer_fails_it_at_once(peers: Peers, asking: Asking) -> None:
    with ScriptedReplay(peers, lambda start: [reply(TOPIC, 0, b"x")]) as socket:
        answer = asking.ask(socket.endpoint)
        assert asking.waits_for(answer, 1)
    assert asking.ended(answer) == [Reply(TOPIC, 0, b"x")]
    assert answer.why.endswith("the connection broke")


@pytest.mark.parametrize("endpoint", ["", "nowhere", "tcp://", "tcp://a b:1", "smtp://h:1"])
def test_an_endpoint_that_is_none_fails_its_answer_only(peers: Peers, asking: Asking, endpoint: str) -> None:
    answer = asking.ask(endpoint)
    assert asking.ended(answer) == []
    assert f"cannot ask {endpoint!r}" in answer.why
    with ScriptedReplay(peers, batches) as socket:
        assert len(asking.ended(asking.ask(socket.endpoint))) == 5


def test_a_dropped_question_leaves_its_server_alone(peers: Peers, asking: Asking) -> None:
    router = peers.socket(zmq.ROUTER)
    router.bind(LOOPBACK)
    endpoint = router.get_string(zmq.LAST_ENDPOINT)
    monitor = router.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    answer = asking.ask(endpoint)
    assert router.poll(int(WAIT_S * 1000))
    asking.client.drop(answer)
    assert monitor.poll(int(WAIT_S * 1000)), "the connection is closed"
    router.disable_monitor()
    monitor.close(linger=0)
    assert asking.client.waiting_bytes == 0
