"""Ports of the loopback: for servers that must have the same ones when they start again, and of nobody."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator

_PORTS = range(20_000, 32_000)  # below those that systems give to connections that go out


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago: all are held together, so they differ."""
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < count:
            one = socket.socket()
            try:
                one.bind(("127.0.0.1", random.choice(_PORTS)))
            except OSError:
                one.close()
            else:
                sockets.append(one)
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextlib.contextmanager
def deaf_port() -> Iterator[int]:
    """A port that refuses connections as long as this is open.

    It is held: nobody else can listen there, and no connection that goes out is given it and meets itself.
    """
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
