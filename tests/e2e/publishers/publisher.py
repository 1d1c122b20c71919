"""A real publisher in a process of its own, on ports that it keeps when it starts again."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zmq

from tests.ports import free_ports

POD = "old"
MODEL = "any model"
_PROGRAM = Path(__file__).with_name("program.py")
_END_OF_REPLAY = b"\xff" * 8
_REPLY_MS_MAX = 10_000
_STOP_SECONDS_MAX = 10.0

Event = dict[str, Any]


class Publisher:
    """Speaks for one server. `start()` it and `kill()` it at the end, or use it as a context manager.

    endpoint, replay_endpoint: where to connect to; with `dial` the publisher connects to that endpoint
    instead. Further options are arguments of `ZmqEventPublisher`.
    """

    def __init__(
        self,
        source: Path,
        *,
        topic: str = f"kv@{POD}@{MODEL}",
        rank: int = 0,
        dial: str | None = None,
        **options: Any,
    ) -> None:
        live, replay = free_ports(2)
        self.endpoint = dial or f"tcp://127.0.0.1:{live}"
        self.replay_endpoint = f"tcp://127.0.0.1:{replay}"
        self._source = source
        self._arguments = {
            "data_parallel_rank": rank,
            "endpoint": dial or f"tcp://*:{live - rank}",  # it adds its rank to its ports
            "replay_endpoint": f"tcp://*:{replay - rank}",
            "topic": topic,
            **options,
        }
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Publisher:
        """Starts the process and returns when its sockets are open."""
        assert self._process is None, "started already"
        self._process = subprocess.Popen(
            [sys.executable, str(_PROGRAM), str(self._source)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self._do("open", self._arguments)
        except BaseException:
            self.kill()
            raise
        return self

    def publish(self, *batches: Sequence[Event], times: int = 1) -> None:
        """Queues batches, all of them so many times; the publisher's own thread sends them soon after."""
        self._do("publish", ([list(batch) for batch in batches], times))

    def kill(self) -> None:
        """Ends the process as a crash does. Twice is fine."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait(_STOP_SECONDS_MAX)
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()

    def __enter__(self) -> Publisher:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.kill()

    def replay(self, start: int = 0) -> list[list[bytes]]:
        """All frames of all replies but the end marker, asked over a socket of its own."""
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.set(zmq.LINGER, 0)
            socket.set(zmq.RCVHWM, 0)
            socket.connect(self.replay_endpoint)
            socket.send_multipart([b"", start.to_bytes(8, "big")])
            replies: list[list[bytes]] = []
            while True:
                if not socket.poll(_REPLY_MS_MAX):
                    raise TimeoutError(f"no answer from the replay socket in {_REPLY_MS_MAX} ms")
                frames = socket.recv_multipart()
                if frames[-2] == _END_OF_REPLAY:
                    return replies
                replies.append(frames)

    def wait_until_sent(self, last: int) -> None:
        """Returns when batch number `last` has left the queue."""
        while not self.replay(last):
            pass  # each answer takes up to a tenth of a second

    def _do(self, command: str, argument: object) -> None:
        process = self._process
        assert process is not None, "not started"
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(repr((command, argument)) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, f"the publisher ended with {process.wait(_STOP_SECONDS_MAX)} at {command}"
        assert ast.literal_eval(answer) is None
