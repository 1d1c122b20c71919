"""The other end of links: keys, a handler that can be held, and servers in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest
import zmq

from kvatlas.actors.link.link import LinkError, ShardLink
from kvatlas.actors.orders import LinkKeys, decode, encode

WAIT_S = 60.0


def key_pair() -> tuple[str, str]:
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def new_keys() -> LinkKeys:
    server, client = key_pair(), key_pair()
    return LinkKeys(
        server_public=server[0], server_secret=server[1], client_public=client[0], client_secret=client[1]
    )


def error_of(future: Future[bytes]) -> str:
    """What its LinkError says."""
    with pytest.raises(LinkError) as caught:
        future.result(WAIT_S)
    return str(caught.value)


def wait_until(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    """For what no thread tells of."""
    waiting, rounds = threading.Event(), int(timeout_s / 0.005)
    for _ in range(rounds):
        if condition():
            return
        waiting.wait(0.005)
    raise AssertionError("it did not come true")


def ask_until_answered(link: ShardLink, frame: bytes) -> bytes:
    """For a peer that comes up by and by."""
    for _ in range(100):
        future = link.request(frame, 1.0)
        if future.exception(WAIT_S) is None:
            return future.result()
    raise AssertionError("nobody answered")


class Echo:
    """Answers each frame with itself; one that begins with `hold`, when it is let go."""

    def __init__(self) -> None:
        self._may_go = threading.Event()

    def handle(self, frame: bytes) -> bytes:
        if frame.startswith(b"hold"):
            self._may_go.wait(WAIT_S)
        return frame

    def let_go(self) -> None:
        self._may_go.set()


class ServerProcess:
    """A `LinkServer` that echoes, in a process that can be stopped, continued and killed."""

    def __init__(self, keys: LinkKeys, address: str = "tcp://127.0.0.1:*") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.actors.link.link_peers", address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin and self._process.stdout
        # LinkKeys hides its secrets only when it is printed.
        self._process.stdin.write(encode(keys).hex().encode() + b"\n")
        self._process.stdin.flush()
        self.endpoint = self._process.stdout.readline().decode().strip()
        assert self.endpoint, "the server did not start"

    def pause(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)  # until all its threads have stopped

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(WAIT_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


def _serve(address: str) -> None:
    from kvatlas.actors.link.server import LinkServer

    keys = decode(bytes.fromhex(sys.stdin.readline()), LinkKeys)
    with LinkServer(Echo().handle, keys, address) as server:
        print(server.endpoint, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    _serve(sys.argv[1])
