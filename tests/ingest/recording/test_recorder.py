"""Recording from real sockets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from kvatlas.index.errors import ConfigError, RecordingError
from kvatlas.ingest.recording.reader import RecordingReader
from kvatlas.ingest.recording.recorder import Recorder, RecorderConfig
from kvatlas.ingest.recording.records import Lost, Message, Role, Source
from kvatlas.ingest.simulator.publisher import SimulatedPublisher
from kvatlas.ingest.simulator.server import SimulatedServer
from tests.ingest.recording.recording_files import Frames, file_bytes_max, frames_in, read
from tests.ingest.zmq_peers import END_OF_REPLAY, WAIT_S, Socket, number

TOPIC = b"kv@pod@model"
MALFORMED: list[Frames] = [
    (b"kv@pod@model",),
    (b"",),
    (b"topic", b"short", b"payload"),
    (b"a", b"b", b"c", b"d", b""),
    (b"topic", b"\xff" * 8, b""),
]


class Publisher:
    """An XPUB socket, and if wanted a ROUTER beside it that the test answers from."""

    def __init__(self, context: zmq.Context[Socket], endpoint: str = "tcp://127.0.0.1:*") -> None:
        self.socket = context.socket(zmq.XPUB)
        self.socket.set(zmq.XPUB_VERBOSER, 1)
        if "*" in endpoint:
            self.socket.bind(endpoint)
        else:
            self.socket.connect(endpoint)
        self.endpoint = self.socket.get_string(zmq.LAST_ENDPOINT)
        self.router = context.socket(zmq.ROUTER)
        self.router.bind("tcp://127.0.0.1:*")
        self.replay_endpoint = self.router.get_string(zmq.LAST_ENDPOINT)

    def wait_for_subscriber(self) -> None:
        assert self.socket.poll(int(WAIT_S * 1000)), "nobody subscribed"
        assert self.socket.recv() == b"\x01"

    def batch(self, sequence: int) -> None:
        self.socket.send_multipart([TOPIC, number(sequence), b"%d" % sequence])

    def answer(self, expected_start: int, sequences: list[int], *, ends: bool = True) -> None:
        """Waits for a replay request, and answers it so."""
        assert self.router.poll(int(WAIT_S * 1000)), "nobody asked"
        identity, empty, start = self.router.recv_multipart()
        assert (empty, start) == (b"", number(expected_start))
        for sequence in sequences:
            self.router.send_multipart([identity, b"", TOPIC, number(sequence), b"%d" % sequence])
        if ends:
            self.router.send_multipart([identity, b"", b"", END_OF_REPLAY, b""])


NewPublisher = Callable[..., Publisher]


@pytest.fixture
def new_publisher() -> Iterator[NewPublisher]:
    context: zmq.Context[Socket] = zmq.Context()
    made: list[Publisher] = []

    def create(endpoint: str = "tcp://127.0.0.1:*") -> Publisher:
        made.append(Publisher(context, endpoint))
        return made[-1]

    yield create
    for publisher in made:
        publisher.socket.close(linger=0)
        publisher.router.close(linger=0)
    context.term()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kv.rec"


def replies_in(path: Path) -> list[int]:
    """Sequence numbers that replay sockets answered, -1 for an end marker."""
    with RecordingReader(path) as reader:
        return [
            -1 if record.frames[-2] == END_OF_REPLAY else int.from_bytes(record.frames[-2], "big")
            for record in reader.records()
            if isinstance(record, Message) and reader.sources[record.source].role is Role.REPLAY
        ]


def test_messages_of_every_shape_are_recorded_as_they_came(path: Path, new_publisher: NewPublisher) -> None:
    publisher = new_publisher()
    sent = [(TOPIC, number(n), os.urandom(n)) for n in range(500)] + MALFORMED
    with Recorder(path, RecorderConfig(endpoints=(publisher.endpoint,))) as recorder:
        publisher.wait_for_subscriber()
        for frames in sent:
            publisher.socket.send_multipart(frames)
        assert recorder.wait_until(lambda s: s.recorded_messages == len(sent), WAIT_S)
    assert frames_in(path) == sent
    seen = recorder.statistics()
    assert seen.frame_bytes == sum(len(frame) for frames in sent for frame in frames)
    assert (seen.lost_messages, seen.failure, seen.file_bytes) == (0, None, path.stat().st_size)
    with RecordingReader(path) as reader:
        assert (reader.has_index, reader.torn_bytes) == (True, 0)


def test_messages_are_known_by_where_they_came_from(path: Path, new_publisher: NewPublisher) -> None:
    connected = [new_publisher(), new_publisher()]
    config = RecorderConfig(endpoints=tuple(p.endpoint for p in connected), listen="tcp://127.0.0.1:*")
    recorder = Recorder(path, config)
    bound = recorder.sources[2]
    assert bound.role is Role.BOUND
    assert not bound.endpoint.endswith("*")
    with recorder:
        for source, publisher in enumerate([*connected, new_publisher(bound.endpoint)]):
            publisher.wait_for_subscriber()
            publisher.socket.send(b"%d" % source)
        assert recorder.wait_until(lambda s: s.recorded_messages == 3 and s.connections == 3, WAIT_S)
    with RecordingReader(path) as reader:
        assert list(reader.sources.values()) == recorder.sources
        found = {record.source: record.frames for record in reader.records() if isinstance(record, Message)}
    assert found == {0: (b"0",), 1: (b"1",), 2: (b"2",)}


@pytest.mark.parametrize("topic_in_replay", [True, False])
def test_what_a_server_still_has_is_asked_for_and_recorded(path: Path, topic_in_replay: bool) -> None:
    with SimulatedPublisher("kv@pod@model", topic_in_replay=topic_in_replay) as publisher:
        assert publisher.replay_endpoint is not None
        for n in range(50):
            publisher.publish(b"%d" % n)
        config = RecorderConfig(
            endpoints=(publisher.endpoint,), replay_endpoints=(publisher.replay_endpoint,)
        )
        with Recorder(path, config) as recorder:
            assert recorder.wait_until(lambda s: s.replays["complete"] == 1, WAIT_S)
            publisher.wait_for_subscribers()
            publisher.publish(b"live")
            assert recorder.wait_until(lambda s: s.live_messages == 1, WAIT_S)
    assert replies_in(path) == [*range(50), -1]
    with RecordingReader(path) as reader:
        source = Source(endpoint=publisher.replay_endpoint, role=Role.REPLAY, replay_of=0)
        assert reader.sources[1] == source
        (live,) = [record for record in reader.records() if record.source == 0]
    assert isinstance(live, Message)
    assert live.frames == (TOPIC, number(50), b"live")


def test_an_answer_with_a_hole_is_asked_for_again_from_there(path: Path, new_publisher: NewPublisher) -> None:
    publisher = new_publisher()
    config = RecorderConfig(replay_endpoints=(publisher.replay_endpoint,))
    with Recorder(path, config) as recorder:
        publisher.answer(0, [5, 6, 9, 10])
        publisher.answer(7, [7, 8, 9, 10, 11])
        assert recorder.wait_until(lambda s: s.replays["complete"] == 1, WAIT_S)
        assert recorder.statistics().replies_left_out == 2
    assert replies_in(path) == [5, 6, -1, 7, 8, 9, 10, 11, -1]


def test_a_number_that_no_answer_has_was_never_published(path: Path, new_publisher: NewPublisher) -> None:
    publisher = new_publisher()
    config = RecorderConfig(replay_endpoints=(publisher.replay_endpoint,), replay_attempts=3)
    with Recorder(path, config) as recorder:
        publisher.answer(0, [5, 7])
        publisher.answer(6, [7])
        publisher.answer(6, [7, 9])
        assert recorder.wait_until(lambda s: s.replays["complete"] == 1, WAIT_S)
    assert replies_in(path) == [5, -1, -1, 7, 9, -1]


def test_what_fell_between_the_answer_and_the_first_live_message_is_asked_for(
    path: Path, new_publisher: NewPublisher
) -> None:
    publisher = new_publisher()
    config = RecorderConfig(endpoints=(publisher.endpoint,), replay_endpoints=(publisher.replay_endpoint,))
    with Recorder(path, config) as recorder:
        publisher.wait_for_subscriber()
        publisher.answer(0, [0, 1])
        assert recorder.wait_until(lambda s: s.replays["complete"] == 1, WAIT_S)
        publisher.batch(4)
        publisher.answer(2, [2, 3, 4])
        assert recorder.wait_until(lambda s: s.replays["complete"] == 1 and s.replayed_messages == 7, WAIT_S)
    assert replies_in(path) == [0, 1, -1, 2, 3, 4, -1]


def test_a_replay_socket_that_is_silent_or_stops_halfway_is_given_up(
    path: Path, new_publisher: NewPublisher
) -> None:
    publisher = new_publisher()
    config = RecorderConfig(
        replay_endpoints=(publisher.replay_endpoint, "tcp://127.0.0.1:9"),
        replay_timeout_s=1.0,
        replay_attempts=2,
    )
    with Recorder(path, config) as recorder:
        publisher.answer(0, [0, 1], ends=False)
        assert recorder.wait_until(
            lambda s: s.replays["incomplete"] == 2 and s.replayed_messages == 2, WAIT_S
        )
    assert replies_in(path) == [0, 1]


def test_what_does_not_fit_the_queue_is_dropped_and_the_recording_says_so(
    path: Path, new_publisher: NewPublisher
) -> None:
    publisher = new_publisher()
    config = RecorderConfig(endpoints=(publisher.endpoint,), queue_bytes_max=5000)
    with Recorder(path, config) as recorder:
        publisher.wait_for_subscriber()
        publisher.socket.send(b"fits")
        assert recorder.wait_until(lambda s: s.recorded_messages == 1, WAIT_S)
        publisher.socket.send(bytes(10_000))
        assert recorder.wait_until(lambda s: s.lost_messages == 1, WAIT_S)
        assert recorder.wait_until(lambda s: s.waiting_bytes == 0, WAIT_S)
    fits, lost = read(path)
    assert isinstance(fits, Message) and isinstance(lost, Lost)
    assert (lost.source, lost.messages) == (0, 1)


def test_no_message_vanishes_uncounted_under_a_flood(path: Path, new_publisher: NewPublisher) -> None:
    publisher = new_publisher()
    publisher.socket.set(zmq.XPUB_NODROP, 1)
    config = RecorderConfig(endpoints=(publisher.endpoint,), queue_bytes_max=20_000, chunk_bytes=2000)
    with Recorder(path, config) as recorder:
        publisher.wait_for_subscriber()
        for n in range(5000):
            publisher.socket.send_multipart([TOPIC, number(n), bytes(100)])
        assert recorder.wait_until(lambda s: s.live_messages == 5000, WAIT_S)
    records = read(path)
    lost = sum(record.messages for record in records if isinstance(record, Lost))
    assert lost == recorder.statistics().lost_messages
    expected = 0
    for record in records:  # a loss stands exactly where the numbers jump
        if isinstance(record, Lost):
            expected += record.messages
        else:
            assert record.frames[1] == number(expected)
            expected += 1
    assert expected == 5000


def test_a_full_disk_ends_the_recording_but_not_the_process(
    path: Path, new_publisher: NewPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = new_publisher()
    config = RecorderConfig(endpoints=(publisher.endpoint,), chunk_bytes=1000)
    recorder = Recorder(path, config).start()
    publisher.wait_for_subscriber()
    with file_bytes_max(10_000):
        for n in range(50):
            publisher.socket.send_multipart([TOPIC, number(n), os.urandom(500)])
        assert not recorder.wait_until(lambda s: s.recorded_messages == 50, WAIT_S)
    failure = recorder.statistics().failure
    assert failure is not None
    assert "no more can be written" in failure
    assert [record.message for record in caplog.records] == [f"recording has ended: {failure}"]
    with pytest.raises(RecordingError, match="no more can be written"):
        recorder.stop()
    recorder.stop()
    frames = frames_in(path)
    assert [int.from_bytes(one[1], "big") for one in frames] == list(range(len(frames)))
    assert len(frames) > 5


def test_the_count_of_connections_follows_publishers_that_come_and_go(
    path: Path, new_publisher: NewPublisher
) -> None:
    publisher = new_publisher()
    with Recorder(path, RecorderConfig(endpoints=(publisher.endpoint,))) as recorder:
        assert recorder.wait_until(lambda s: s.connections == 1, WAIT_S)
        publisher.socket.close(linger=0)
        assert recorder.wait_until(lambda s: s.connections == 0, WAIT_S)


def test_a_frame_beyond_the_limit_cuts_its_publisher_off_and_it_is_dialled_again(
    path: Path, new_publisher: NewPublisher
) -> None:
    publisher = new_publisher()
    config = RecorderConfig(endpoints=(publisher.endpoint,), message_bytes_max=1000)
    with Recorder(path, config) as recorder:
        publisher.wait_for_subscriber()
        publisher.socket.send(bytes(1001))
        told: list[bytes] = []
        for _ in range(2):  # the end of the one and the begin of the next, which may be heard of first
            assert publisher.socket.poll(int(WAIT_S * 1000)), told
            told.append(publisher.socket.recv())
        assert sorted(told) == [b"\x00", b"\x01"], "the subscription ends with the connection"
        publisher.socket.send(b"again")
        assert recorder.wait_until(lambda s: s.recorded_messages == 1, WAIT_S)
    assert frames_in(path) == [(b"again",)]


def test_a_recording_goes_on_in_another_run(path: Path) -> None:
    with SimulatedServer("pod", "model") as server:
        publisher = server.listen()
        config = RecorderConfig(endpoints=(publisher.endpoint,))
        for run in range(2):
            with Recorder(path, config, append=run > 0) as recorder:
                publisher.wait_for_subscribers()
                server.serve(range(run * 1000, run * 1000 + 64))
                assert recorder.wait_until(lambda s: s.recorded_messages == 1, WAIT_S)
            publisher.restart()  # forgets who had subscribed
    with RecordingReader(path) as reader:
        assert [record.source for record in reader.records()] == [0, 1]
        assert len(reader.sessions) == 2


def test_stopping_twice_or_without_a_start_leaves_a_sound_file(path: Path) -> None:
    recorder = Recorder(path, RecorderConfig(listen="tcp://127.0.0.1:*"))
    recorder.stop()
    recorder.stop()
    assert read(path) == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (RecorderConfig(), "expected at least one endpoint, got none"),
        (RecorderConfig(endpoints=("nonsense",)), "cannot connect to 'nonsense'"),
        (RecorderConfig(listen="tcp://127.0.0.1"), "cannot bind"),
        (RecorderConfig(replay_endpoints=("smtp://x:1",)), "expected an endpoint such as 'tcp://"),
    ],
)
def test_endpoints_that_cannot_be_used_are_a_clear_error_and_make_no_file(
    path: Path, config: RecorderConfig, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        Recorder(path, config)
    assert not path.exists()


def test_a_file_that_cannot_be_written_is_said_before_anything_is_received(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="cannot be written"):
        Recorder(tmp_path / "no" / "kv.rec", RecorderConfig(listen="tcp://127.0.0.1:*"))
