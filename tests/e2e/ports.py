"""Ports for servers that must have the same ones when they start again."""

from __future__ import annotations

import random
import socket

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
