"""`kvatlas record` and `kvatlas replay`, as a user types them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
import zmq
from typer.testing import CliRunner, Result

from kvatlas.cluster.cli import app
from kvatlas.ingest.recording.reader import RecordingReader
from kvatlas.ingest.recording.records import Message, Source
from kvatlas.ingest.recording.writer import RecordingWriter
from kvatlas.ingest.simulator.server import SimulatedServer
from tests.servers.redis_server import wait_until

PROMPT = list(range(1000, 1100))
WAIT_S = 60.0
# An interrupt reaches it also where the tests run in the background of a shell, whose jobs ignore one.
INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"


def command(first: str, *arguments: object) -> list[str]:
    """The command line in a process of its own, after a first statement."""
    main = f"{first}; from kvatlas.cluster.cli import main; main()"
    return [sys.executable, "-c", main, *map(str, arguments)]


def kvatlas(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kv.rec"


@pytest.fixture
def server() -> Iterator[SimulatedServer]:
    with SimulatedServer("pod-a", "some/model", block_size=16, blocks=32) as server:
        yield server


@pytest.fixture
def recording(path: Path) -> Path:
    """Two batches of one pod, 10 seconds apart, as a server publishes them; and a malformed message."""
    payloads: list[bytes] = []
    SimulatedServer("pod-a", "some/model", publish=payloads.append).serve([*PROMPT, *range(60)])
    other = SimulatedServer("pod-b", "some/model", publish=payloads.append)
    other.serve(PROMPT)
    with RecordingWriter(path, [Source(endpoint="tcp://10.0.0.9:5557")]) as writer:
        for second, (pod, payload) in enumerate(zip((b"a", b"b"), payloads, strict=True)):
            time_ns = second * 10_000_000_000 - writer.shift_ns
            writer.message(0, (b"kv@pod-" + pod + b"@some/model", bytes(8), payload), time_ns)
        writer.message(0, (b"malformed",), 11_000_000_000 - writer.shift_ns)
    return path


@pytest.mark.slow
def test_a_recording_of_a_server_has_what_it_still_had_and_what_it_said_then(
    path: Path, server: SimulatedServer
) -> None:
    publisher = server.listen()
    server.serve(range(64))
    assert publisher.replay_endpoint is not None
    pod = ("--pod", publisher.endpoint, "--replay", publisher.replay_endpoint)
    process = subprocess.Popen(
        command(INTERRUPTIBLE, "record", *pod, "-o", path, "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        publisher.wait_for_subscribers(timeout_s=WAIT_S)
        wait_until(lambda: publisher.statistics().replays == 1)
        server.serve(PROMPT)
        assert process.stderr is not None
        for line in process.stderr:  # a line every two seconds
            if "   3 messages" in line and "replays 1 complete" in line:
                break
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    seen = json.loads(printed)
    assert seen["live_messages"] == 1
    assert seen["replays"]["complete"] == 1
    assert f"{path}: " in said

    told = json.loads(kvatlas("replay", path, "--atlas", "--json").stdout)
    (worker,) = told["workers"]
    assert (worker["pod"], worker["blocks"]["gpu"], worker["gaps"]) == ("pod-a", 10, 0)
    assert (told["played"]["answered"], told["played"]["played"]) == (1, 1)


@pytest.mark.slow
def test_an_interrupt_ends_a_recording_cleanly(path: Path, server: SimulatedServer) -> None:
    publisher = server.listen()
    process = subprocess.Popen(
        command(INTERRUPTIBLE, "record", "--pod", publisher.endpoint, "-o", path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        publisher.wait_for_subscribers(timeout_s=WAIT_S)
        server.serve(PROMPT)
        assert process.stdout is not None
        for line in process.stdout:  # a line every two seconds
            if "   1 messages" in line:
                break
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    with RecordingReader(path) as reader:
        assert reader.has_index
        assert len(list(reader.records())) == 1


@pytest.mark.slow
def test_a_full_disk_is_one_clear_line(path: Path, server: SimulatedServer) -> None:
    publisher = server.listen()
    limited = "from resource import *; setrlimit(RLIMIT_FSIZE, (4096, getrlimit(RLIMIT_FSIZE)[1]))"
    process = subprocess.Popen(
        command(limited, "record", "--pod", publisher.endpoint, "-o", path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        publisher.wait_for_subscribers(timeout_s=WAIT_S)
        for turn in range(200):
            server.serve(range(turn * 100, turn * 100 + 100))
        _, said = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    assert said.startswith(
        f"kvatlas: {path}: no more can be written (File too large); it is whole up to byte "
    )
    assert said.count("\n") == 1
    assert json.loads(kvatlas("replay", path, "--info", "--json").stdout)["torn_bytes"] == 0


@pytest.mark.slow
def test_a_recording_is_gone_on_with_only_when_asked_to(recording: Path) -> None:
    arguments = ("record", "--listen", "tcp://127.0.0.1:*", "-o", recording, "--seconds", 0.1)
    result = kvatlas(*arguments)
    assert result.exit_code == 1
    assert "expected no such file, or to append to it" in result.stderr
    assert kvatlas(*arguments, "--append").exit_code == 0
    assert json.loads(kvatlas("replay", recording, "--info", "--json").stdout)["sessions"] == 2


def test_info_says_what_is_in_a_file(recording: Path) -> None:
    result = kvatlas("replay", recording, "--info")
    assert result.exit_code == 0, result.output
    assert "11.000 s in 1 session" in result.stdout
    assert "0: tcp://10.0.0.9:5557 (connected), 3 messages" in result.stdout
    assert "1 malformed, kv@pod-a@some/model kv@pod-b@some/model" in result.stdout
    summary = json.loads(kvatlas("replay", recording, "--info", "--json").stdout)
    assert (summary["has_index"], summary["torn_bytes"], summary["sources"][0]["messages"]) == (True, 0, 3)


def test_info_of_a_file_that_was_cut_says_so(recording: Path) -> None:
    recording.write_bytes(recording.read_bytes()[:-30])
    result = kvatlas("replay", recording, "--info")
    assert result.exit_code == 0
    assert "not closed: no index" in result.stdout
    assert "bytes at the end are torn" in result.stdout


def test_blocks_by_worker_and_skips_are_printed_for_an_atlas(recording: Path) -> None:
    result = kvatlas("replay", recording, "--atlas")
    assert result.exit_code == 0, result.output
    assert "11.0 of 11.0 s   2 messages   1 malformed" in result.stdout
    assert [line.split()[:4] for line in result.stdout.splitlines() if "pod-" in line] == [
        ["pod-a", "0", "some/model", "10"],
        ["pod-b", "0", "some/model", "6"],
    ]
    assert "not applied: " in result.stdout


def test_a_stretch_of_time_goes_to_the_atlas_alone(recording: Path) -> None:
    told = json.loads(kvatlas("replay", recording, "--atlas", "--to", 5, "--json").stdout)
    assert [worker["pod"] for worker in told["workers"]] == ["pod-a"]
    told = json.loads(kvatlas("replay", recording, "--atlas", "--from", 5, "--json").stdout)
    assert [worker["pod"] for worker in told["workers"]] == ["pod-b"]


def test_sockets_play_to_whoever_subscribes(recording: Path, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/played"
    heard: list[list[bytes]] = []

    def subscribe() -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.set(zmq.LINGER, 0)
            socket.subscribe(b"")
            socket.connect(endpoint)
            while len(heard) < 3 and socket.poll(int(WAIT_S * 1000)):
                heard.append(socket.recv_multipart())

    subscriber = Thread(target=subscribe)
    subscriber.start()
    result = kvatlas("replay", recording, "--speed", "full", "--bind", endpoint, "--json")
    subscriber.join()  # all was sent; it may still have to take it
    assert result.exit_code == 0, result.output
    played = json.loads(result.stdout)
    assert played["played"]["played"] == 3
    assert [server["endpoint"] for server in played["servers"]] == [endpoint]
    assert played["servers"][0]["replay_endpoint"].startswith("tcp://127.0.0.1:")
    assert f"tcp://10.0.0.9:5557 as {endpoint}, replay tcp://" in result.stderr
    with RecordingReader(recording) as reader:
        recorded = [list(record.frames) for record in reader.records() if isinstance(record, Message)]
    assert heard == recorded


@pytest.mark.slow
def test_an_interrupt_ends_a_stay(recording: Path) -> None:
    options = ("--speed", "full", "--subscribers", 0, "--stay", "--json")
    process = subprocess.Popen(
        command(INTERRUPTIBLE, "replay", recording, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "answering replay requests" in line:
                break
        process.send_signal(signal.SIGINT)
        played, said = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    assert json.loads(played)["played"]["played"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("record", "-o", "x.rec"), 2, "expected at least one endpoint, got none"),
        (("record", "--pod", "nonsense", "-o", "x.rec"), 2, "cannot connect to 'nonsense'"),
        (("record", "--pod", "tcp://127.0.0.1:9", "-o", "no/such/x.rec"), 1, "cannot be written"),
        (("replay", "none.rec"), 1, "none.rec: cannot be opened"),
        (("replay", "FILE", "--atlas", "--speed", "fast"), 2, "expected a number or 'full', got 'fast'"),
        (("replay", "FILE", "--speed", "0"), 2, "expected a number above 0"),
        (("replay", "FILE", "--source", "3"), 2, "--source: expected one of [0], got 3"),
        (("replay", "FILE", "--bind", "tcp://1:1", "--bind", "tcp://1:2"), 2, "expected 1 endpoints"),
    ],
)
def test_what_a_user_can_mend_is_one_clear_line(
    recording: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    exit_code: int,
    said: str,
) -> None:
    monkeypatch.chdir(recording.parent)
    result = kvatlas(*(str(recording) if argument == "FILE" else argument for argument in arguments))
    assert result.exit_code == exit_code
    assert said in result.stderr
    assert result.stderr.startswith("kvatlas: ")
    assert result.stderr.count("\n") == 1
    assert not (recording.parent / "x.rec").exists()
