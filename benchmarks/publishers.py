"""Publishers for benchmarks, and the processes on another core that receive from them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import zmq

SUBSCRIBE_S_MAX = 30.0
RECEIVING_CORE, PUBLISHING_CORE = 0, 1


class Publishers:
    """Sockets that publish without ever dropping: what is not received yet waits here."""

    def __init__(self, count: int) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sockets = [self._context.socket(zmq.XPUB) for _ in range(count)]
        for socket in self.sockets:
            socket.set(zmq.SNDHWM, 0)
            socket.set(zmq.LINGER, 0)
            socket.bind("tcp://127.0.0.1:*")
        self.endpoints = [socket.get_string(zmq.LAST_ENDPOINT) for socket in self.sockets]

    def wait_for_subscribers(self) -> None:
        """Raises TimeoutError when somebody is missing."""
        for socket in self.sockets:
            if not socket.poll(int(SUBSCRIBE_S_MAX * 1000)) or socket.recv()[:1] != b"\x01":
                raise TimeoutError("nobody subscribed")

    def publish(self, messages: Sequence[tuple[int, list[bytes]]]) -> None:
        """Number of the publisher, frames."""
        for number, frames in messages:
            self.sockets[number].send_multipart(frames)

    def close(self) -> None:
        for socket in self.sockets:
            socket.close()
        self._context.term()


@contextmanager
def process(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Python with these arguments; killed in the end."""
    quiet = {**os.environ, "DYN_LOG": "error"}
    started = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, env=quiet)
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        assert started.stdout is not None
        started.stdout.close()


def take_core(core: int) -> None:
    """Have this process to itself there, where there are several; before it starts threads."""
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {core})


def seconds_until(line: str, of: subprocess.Popen[str], begin: float) -> float:
    """From `begin` until the process prints the line."""
    assert of.stdout is not None
    for said in of.stdout:
        if said.strip() == line:
            return time.perf_counter() - begin
    raise RuntimeError(f"expected {line!r} from the receiving process, but it has ended")
