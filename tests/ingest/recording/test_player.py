"""Playing a recording: into an atlas, and into sockets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from kvatlas.index.errors import ConfigError, DecodeError
from kvatlas.ingest.atlas import Atlas
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.recording.order import Selection
from kvatlas.ingest.recording.player import AtlasPlayer, Pace
from kvatlas.ingest.recording.player_sockets import SocketPlayer, SocketPlayerConfig
from kvatlas.ingest.recording.reader import RecordingReader
from kvatlas.ingest.recording.recorder import Recorder, RecorderConfig
from kvatlas.ingest.recording.records import Role, Source
from kvatlas.ingest.recording.writer import RecordingWriter
from kvatlas.ingest.simulator.server import SimulatedServer
from tests.ingest.recording.recording_files import Frames, frames_in, second
from tests.ingest.zmq_peers import END_OF_REPLAY, WAIT_S, Peers, number, received

LIVE = Source(endpoint="tcp://10.0.0.9:5557")
REPLAY = Source(endpoint="tcp://10.0.0.9:5558", role=Role.REPLAY, replay_of=0)
FULL_SPEED = SocketPlayerConfig(speed=None)
Ingested = tuple[bytes, int, bytes]


class Sink:
    """Stands where the atlas stands, and keeps what it is given."""

    def __init__(self) -> None:
        self.batches: list[Ingested] = []

    def ingest(self, topic: bytes, seq: int, payload: bytes) -> None:
        if payload == b"no batch":
            raise DecodeError("no batch")
        self.batches.append((topic, seq, payload))

    @property
    def numbers(self) -> list[int]:
        return [seq for _, seq, _ in self.batches]


def batch(sequence: int, topic: bytes = b"kv@pod@m") -> Frames:
    return (topic, number(sequence), b"payload %d" % sequence)


def reply(sequence: int) -> Frames:
    return (b"", *batch(sequence))


END: Frames = (b"", b"", END_OF_REPLAY, b"")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kv.rec"


@pytest.fixture
def peers() -> Iterator[Peers]:
    peers = Peers()
    yield peers
    peers.close()


def write(
    path: Path, sources: list[Source], messages: list[tuple[int, Frames]], append: bool = False
) -> None:
    """A session of (source, frames), a second apart."""
    with RecordingWriter(path, sources, append=append, chunk_bytes=100) as writer:
        for place, (source, frames) in enumerate(messages):
            writer.message(source, frames, second(writer, place))


def told(path: Path, **options: object) -> Sink:
    sink = Sink()
    with RecordingReader(path) as reader:
        AtlasPlayer(reader, sink, **options).play()  # type: ignore[arg-type]
    return sink


def test_an_atlas_that_is_played_to_holds_what_the_servers_hold(path: Path) -> None:
    with SimulatedServer("pod", "m", block_size=16, blocks=24) as server:
        publisher = server.listen()
        server.serve(range(160))  # before anyone listens
        assert publisher.replay_endpoint is not None
        config = RecorderConfig(
            endpoints=(publisher.endpoint,), replay_endpoints=(publisher.replay_endpoint,)
        )
        with Recorder(path, config) as recorder:
            publisher.wait_for_subscribers()
            assert recorder.wait_until(lambda s: s.replays["complete"] == 1, WAIT_S)
            for turn in range(20):  # evicts
                server.serve(range(turn * 40, turn * 40 + 100), 20)
            published = publisher.statistics().published
            assert recorder.wait_until(lambda s: s.live_messages == published - 1, WAIT_S)
    atlas = Atlas(AtlasConfig(hash_seed="s"))
    with RecordingReader(path) as reader:
        seen = AtlasPlayer(reader, atlas).play()
    assert (seen.answered, seen.played, seen.malformed, seen.refused) == (1, published - 1, 0, 0)
    (worker,) = atlas.statistics().workers
    assert (worker.gaps, worker.restarts, worker.batches) == (0, 0, published)
    assert worker.blocks["gpu"] == len(server.held()) > 0
    for turn in (18, 19):
        prompt = list(range(turn * 40, turn * 40 + 100))
        held = atlas.score(prompt, model="m").get("pod", 0.0)
        assert int(held) * 16 == server.cached_tokens(prompt)
    atlas.close()


def test_answers_are_told_first_and_live_messages_that_they_had_are_not_told_again(path: Path) -> None:
    messages = [(0, batch(3)), (1, reply(1)), (1, reply(2)), (0, batch(4)), (1, reply(3)), (1, END)]
    write(path, [LIVE, REPLAY], [*messages, (0, batch(5))])
    sink = Sink()
    with RecordingReader(path) as reader:
        seen = AtlasPlayer(reader, sink).play()
    assert sink.batches == [(b"kv@pod@m", n, b"payload %d" % n) for n in range(1, 6)]
    assert (seen.answered, seen.played, seen.known, seen.malformed) == (3, 2, 1, 0)


def test_an_answer_of_a_later_session_fills_what_was_missed_between(path: Path) -> None:
    write(path, [LIVE], [(0, batch(1)), (0, batch(2))])
    answer = [(1, reply(n)) for n in range(5)]
    write(path, [LIVE, REPLAY], [*answer[1:], (1, END), (0, batch(5))], append=True)
    assert told(path).numbers == [1, 2, 3, 4, 5]


def test_a_server_that_restarted_is_told_from_its_beginning(path: Path) -> None:
    again = (b"kv@pod@m", number(1), b"of another life")
    write(path, [LIVE, REPLAY], [(1, reply(0)), (1, reply(1)), (1, END), (0, batch(1)), (0, again)])
    assert told(path).batches[2:] == [(b"kv@pod@m", 1, b"of another life")]


def test_a_batch_that_came_twice_is_told_twice(path: Path) -> None:
    write(path, [LIVE], [(0, batch(1)), (0, batch(1))])
    assert told(path).numbers == [1, 1]


def test_replies_of_older_servers_have_the_topic_of_their_live_messages(path: Path) -> None:
    old = (b"", number(1), b"payload 1")
    write(path, [LIVE, REPLAY], [(1, old), (1, (b"", END_OF_REPLAY, b"")), (0, batch(2))])
    assert told(path).batches == [(b"kv@pod@m", n, b"payload %d" % n) for n in (1, 2)]


def test_a_message_without_a_named_topic_is_told_as_of_its_address(path: Path) -> None:
    write(path, [LIVE], [(0, batch(1, b"")), (0, batch(2, b"kv-events"))])
    assert {topic for topic, _, _ in told(path, unnamed_model="my/m").batches} == {b"kv@10.0.0.9:5557@my/m"}


def test_unsound_messages_are_counted_and_the_others_told(path: Path) -> None:
    unsound: list[Frames] = [(), (b"x",), (b"a", b"short", b"c"), (b"", *batch(7))]
    refused = (b"kv@pod@m", number(9), b"no batch")
    write(path, [LIVE], [*((0, frames) for frames in [*unsound, refused]), (0, batch(8))])
    with RecordingReader(path) as reader:
        sink = Sink()
        seen = AtlasPlayer(reader, sink).play()
    assert (sink.numbers, seen.malformed, seen.refused, seen.played) == ([8], 4, 1, 1)


def test_losses_and_damage_show_in_the_counts(path: Path) -> None:
    with RecordingWriter(path, [LIVE]) as writer:
        writer.lost(0, 5, second(writer, 0))
        writer.flush()
        end = writer.file_bytes
        writer.message(0, batch(1), second(writer, 1))
    bent = bytearray(path.read_bytes())
    bent[end + 50] ^= 1
    path.write_bytes(bent)
    with RecordingReader(path) as reader:
        seen = AtlasPlayer(reader, Sink()).play()
    assert (seen.lost, seen.damaged_blocks, seen.played) == (5, 1, 0)


@pytest.mark.parametrize(
    ("selection", "numbers"),
    [
        (Selection(), [0, 1, 2, 3]),
        (Selection(from_s=1, to_s=3), [1, 2]),
        (Selection(sources=(1,)), [1, 3]),
        (Selection(from_s=2, sources=(0,)), [2]),
    ],
)
def test_a_part_of_a_recording_is_played_alone(path: Path, selection: Selection, numbers: list[int]) -> None:
    other = Source(endpoint="tcp://10.0.0.10:5557")
    write(path, [LIVE, other], [(n % 2, batch(n)) for n in range(4)])
    assert told(path, selection=selection).numbers == numbers


def test_a_live_source_that_is_chosen_takes_its_replay_along(path: Path) -> None:
    write(path, [LIVE, REPLAY], [(1, reply(0)), (1, END), (0, batch(1))])
    assert told(path, selection=Selection(sources=(0,))).numbers == [0, 1]


@pytest.mark.parametrize(("speed", "waits"), [(1.0, [2.0, 1.0]), (4.0, [0.5, 0.25]), (None, [])])
def test_the_pace_is_that_of_the_recording_times_the_speed(speed: float | None, waits: list[float]) -> None:
    now_s = 100.0
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        nonlocal now_s
        waited.append(seconds)
        now_s += seconds
        return False

    pace = Pace(speed, clock_s=lambda: now_s, wait=wait)
    assert all(pace.keep(time_s * 1_000_000_000) for time_s in (5, 7, 7, 8))
    assert waited == waits


def test_a_stop_ends_a_wait_of_any_length(path: Path) -> None:
    stopping = threading.Event()
    pace = Pace(1.0, stopping)
    assert pace.keep(0)
    stopping.set()
    assert not pace.keep(10**18)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("inf"), float("nan")])
def test_a_speed_that_is_none_is_refused(speed: float) -> None:
    with pytest.raises(ConfigError, match="expected a number above 0"):
        Pace(speed)


def subscribed(peers: Peers, player: SocketPlayer, server: int = 0) -> zmq.Socket[bytes]:
    socket = peers.socket(zmq.SUB)
    socket.set(zmq.RCVHWM, 1000)
    socket.subscribe(b"")
    socket.connect(player.servers[server].endpoint)
    return socket


def replayed(peers: Peers, player: SocketPlayer, start: int = 0) -> list[list[bytes]]:
    endpoint = player.servers[0].replay_endpoint
    assert endpoint is not None
    dealer = peers.socket(zmq.DEALER)
    dealer.connect(endpoint)
    dealer.send_multipart([b"", number(start)])
    replies: list[list[bytes]] = []
    while (frames := received(dealer))[-2] != END_OF_REPLAY:
        replies.append(frames)
    return replies


@pytest.mark.parametrize("speed", [None, 1e9])
def test_sockets_hear_every_message_as_it_was_recorded(path: Path, peers: Peers, speed: float | None) -> None:
    messages: list[Frames] = [batch(1), (b"x",), (b"",), (b"a", b"b", b"c", b"d"), batch(2)]
    write(path, [LIVE], [(0, frames) for frames in messages])
    with RecordingReader(path) as reader, SocketPlayer(reader, SocketPlayerConfig(speed=speed)) as player:
        socket = subscribed(peers, player)
        assert player.wait_for_subscribers(1, WAIT_S)
        seen = player.play()
        assert [tuple(received(socket)) for _ in messages] == messages
        assert (seen.played, seen.malformed) == (5, 3)


def test_each_server_has_sockets_of_its_own(path: Path, peers: Peers) -> None:
    other = Source(endpoint="tcp://10.0.0.10:5557")
    listening = Source(endpoint="tcp://0.0.0.0:5557", role=Role.BOUND)
    write(path, [LIVE, other, listening], [(n, batch(n)) for n in range(3)])
    with RecordingReader(path) as reader, SocketPlayer(reader, FULL_SPEED) as player:
        assert [server.recorded for server in player.servers] == [
            LIVE.endpoint,
            other.endpoint,
            listening.endpoint,
        ]
        assert [server.replay_endpoint is None for server in player.servers] == [False, False, True]
        sockets = [subscribed(peers, player, server) for server in range(3)]
        assert player.wait_for_subscribers(1, WAIT_S)
        player.play()
        assert [tuple(received(socket)) for socket in sockets] == [batch(n) for n in range(3)]


def test_the_replay_socket_has_what_was_answered_before_and_what_was_played_after(
    path: Path, peers: Peers
) -> None:
    write(path, [LIVE, REPLAY], [(1, reply(5)), (0, batch(6)), (1, reply(6)), (1, END), (0, batch(7))])
    with RecordingReader(path) as reader, SocketPlayer(reader, FULL_SPEED) as player:
        assert replayed(peers, player) == [list(reply(5)), list(reply(6))]
        socket = subscribed(peers, player)
        assert player.wait_for_subscribers(1, WAIT_S)
        player.play()
        assert [received(socket) for _ in range(2)] == [list(batch(6)), list(batch(7))]
        assert replayed(peers, player, start=6) == [list(reply(6)), list(reply(7))]


def test_a_recorded_restart_empties_the_replay_socket(path: Path, peers: Peers) -> None:
    write(path, [LIVE], [(0, batch(8)), (0, batch(9)), (0, batch(0))])
    with RecordingReader(path) as reader, SocketPlayer(reader, FULL_SPEED) as player:
        player.play()
        assert replayed(peers, player) == [list(reply(0))]


def test_a_batch_that_came_twice_does_not_empty_the_replay_socket(path: Path, peers: Peers) -> None:
    write(path, [LIVE], [(0, batch(8)), (0, batch(9)), (0, batch(9))])
    with RecordingReader(path) as reader, SocketPlayer(reader, FULL_SPEED) as player:
        player.play()
        assert replayed(peers, player)[:2] == [list(reply(8)), list(reply(9))]


@pytest.mark.slow
def test_full_speed_waits_for_the_slowest_subscriber(path: Path, peers: Peers) -> None:
    count = 20_000
    with RecordingWriter(path, [LIVE]) as writer:
        for n in range(count):
            writer.message(0, (b"kv@pod@m", number(n), bytes(200)), second(writer, 0))
    with RecordingReader(path) as reader, SocketPlayer(reader, FULL_SPEED) as player:
        socket = subscribed(peers, player)
        assert player.wait_for_subscribers(1, WAIT_S)
        thread = threading.Thread(target=player.play)
        thread.start()
        heard = [int.from_bytes(received(socket)[1], "big") for _ in range(count)]
        thread.join()
    assert heard == list(range(count))


@pytest.mark.slow
def test_a_stop_ends_playing_though_a_subscriber_does_not_read(path: Path, peers: Peers) -> None:
    count, frame = 3000, bytes(20_000)
    with RecordingWriter(path, [LIVE]) as writer:
        for n in range(count):
            writer.message(0, (b"kv@pod@m", number(n), frame), second(writer, 0))
    with RecordingReader(path) as reader:
        player = SocketPlayer(reader, FULL_SPEED)
        with player:
            socket = peers.socket(zmq.SUB)
            socket.set(zmq.RCVHWM, 1)
            socket.subscribe(b"")
            socket.connect(player.servers[0].endpoint)
            assert player.wait_for_subscribers(1, WAIT_S)
            thread = threading.Thread(target=player.play)
            thread.start()
            thread.join(1.0)
            assert thread.is_alive(), "it waits, and would for ever"
            player.stop()
            thread.join(WAIT_S)
            assert not thread.is_alive()
            assert player.statistics().played < count
            player.close()  # without the time that leaving it gives to subscribers


def test_a_recording_of_a_playing_is_the_recording(path: Path, tmp_path: Path) -> None:
    messages: list[Frames] = [batch(n) for n in range(200)]
    write(path, [LIVE], [(0, frames) for frames in messages])
    copy = tmp_path / "copy.rec"
    with RecordingReader(path) as reader, SocketPlayer(reader, FULL_SPEED) as player:
        (server,) = player.servers
        with Recorder(copy, RecorderConfig(endpoints=(server.endpoint,))) as recorder:
            assert player.wait_for_subscribers(1, WAIT_S)
            player.play()
            assert recorder.wait_until(lambda s: s.recorded_messages == len(messages), WAIT_S)
    assert frames_in(copy) == messages


def test_a_replay_without_its_live_source_is_a_server_of_its_own(path: Path, peers: Peers) -> None:
    lone = Source(endpoint=REPLAY.endpoint, role=Role.REPLAY)
    lost_partner = Source(endpoint="tcp://10.0.0.9:9999", role=Role.REPLAY, replay_of=77)
    write(path, [lone, lost_partner], [(0, reply(0)), (0, END), (1, reply(5)), (1, END)])
    assert told(path).numbers == [0, 5]
    with RecordingReader(path) as reader, SocketPlayer(reader, FULL_SPEED) as player:
        assert [server.recorded for server in player.servers] == [lone.endpoint, lost_partner.endpoint]
        assert replayed(peers, player) == [list(reply(0))]


@pytest.mark.parametrize(
    ("bind", "said"),
    [
        (("tcp://127.0.0.1:1", "tcp://127.0.0.1:2"), "expected 1 endpoints or one with"),
        (("nonsense:*",), "cannot bind 'nonsense:"),
    ],
)
def test_endpoints_that_cannot_be_bound_are_a_clear_error(
    path: Path, bind: tuple[str, ...], said: str
) -> None:
    write(path, [LIVE], [])
    with (
        RecordingReader(path) as reader,
        pytest.raises(ConfigError, match=said),
        SocketPlayer(reader, SocketPlayerConfig(bind=bind)),
    ):
        pass
